"""Photographs: COCO-format data become shards, train the model, and are predicted on, for all six tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import TASKS, shared_data

from diception.annotations import load
from diception.cli import main
from diception.config import AugmentConfig, DataConfig, FlowConfig, ModelConfig, SourceConfig, TrainConfig
from diception.datasets.images import read_image
from diception.datasets.shards import ShardReader
from diception.inference import Pipeline
from diception.training.run import train

TRAINED = ("pose", "point_segmentation", "semantic_segmentation", "entity_segmentation")
PHOTOGRAPHS = 2


@pytest.fixture(scope="module")
def coco() -> Path:
    return shared_data("coco-mini")


@pytest.fixture(scope="module")
def shards(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The validation photographs as shards, made by the command."""
    out = tmp_path_factory.mktemp("coco") / "shards"
    notes = coco / "annotations"
    command = ["shards", "coco", "--images", str(coco / "val2017"), "--samples-per-shard", "10", "--out", str(out)]
    command += ["--instances", str(notes / "instances_val2017.json")]
    command += ["--keypoints", str(notes / "person_keypoints_val2017.json")]
    assert main(command) == 0
    return str(out / "*.tar")


@pytest.fixture(scope="module")
def trained(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model after three steps on the photographs."""
    source = SourceConfig(name="coco", shards=shards, weight=1.0, tasks={name: 0.25 for name in TRAINED})
    return train(
        TrainConfig(
            run=str(tmp_path_factory.mktemp("run") / "run"),
            steps=3,
            batch_size=8,
            log_every=1,
            validate_every=0,
            model=ModelConfig(base="tiny"),
            data=DataConfig(sources=[source], size=128, workers=0, augment=AugmentConfig(crop=0.6)),
            flow=FlowConfig(share_at_one=0.3),
        )
    )


def test_the_shards_are_faultless(coco: Path, shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "check", shards]) == 0
    count = len(list((coco / "val2017").glob("*.jpg")))
    out = capsys.readouterr().out
    assert f"{count} samples in {-(-count // 10)} shards" in out and "0 faults" in out
    assert len(ShardReader(shards).serving("instances")) > 0
    assert len(ShardReader(shards).serving("pose")) > 0


def test_all_instance_and_pose_tasks_train_on_them(trained: Path) -> None:
    with open(next(trained.parent.glob("logs/**/metrics.csv"))) as file:
        columns = file.readline()
        rows = file.readlines()
    assert rows and all(f"loss/{task}" in columns for task in TRAINED)
    losses = [row.split(",")[columns.strip().split(",").index("loss")] for row in rows]
    assert all(np.isfinite(float(value)) for value in losses if value)
    assert set(Pipeline.from_pretrained(trained).tasks) >= set(TASKS)


def test_photographs_are_predicted_for_all_six_tasks(coco: Path, trained: Path, tmp_path: Path) -> None:
    files = sorted((coco / "val2017").glob("*.jpg"))[:PHOTOGRAPHS]
    command = ["predict", "--model", str(trained), "--task", ",".join(TASKS), "--points", "0.5,0.5;0.4,0.6"]
    command += ["--category", "person", "--steps", "1", "--guidance-scale", "2", "--out", str(tmp_path / "out")]
    assert main([*command, "--image", *map(str, files)]) == 0
    pipeline = Pipeline.from_pretrained(trained)
    for file in files:
        size = read_image(file).shape[:2]
        for name in TASKS:
            prediction = pipeline(
                read_image(file),
                name,
                points=[(0.5, 0.5), (0.6, 0.4)] if name == "point_segmentation" else None,
                category="person" if name == "semantic_segmentation" else None,
                steps=1,
                guidance_scale=2.0,
            )
            assert not isinstance(prediction, list)
            own = prediction.annotation
            assert own.size == size and np.isfinite(own.to_array().astype(float)).all()
            saved = load(own.kind, tmp_path / "out" / f"{file.stem}.{name}.{own.suffix}")
            assert saved.size == size and saved.to_array().shape == own.to_array().shape
