"""Fixtures shared by the tests: a few rendered scenes as shards, a small config, and the shared real data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shots import write_pairs
from small import make_model
from world import write_world

from diception.config import AugmentConfig, DataConfig, FlowConfig, ModelConfig, OptimConfig, SourceConfig, TrainConfig
from diception.datasets.synthetic import render_scene
from diception.datasets.writer import ShardWriter, write_samples
from diception.model.checkpoint import save_model
from diception.tasks import known_tasks

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
TASKS = ("depth", "normal", "pose", "point_segmentation", "semantic_segmentation", "entity_segmentation")

torch.set_num_threads(1)


def shared_data(name: str) -> Path:
    """A folder of the shared real data; skips the test where it is absent."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the real data {name!r} is not beside the checkout ({folder})")
    return folder


@pytest.fixture(scope="session")
def scene_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve easy scenes at 64 px as one shard; the pattern to read them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_samples((render_scene(0, index, 64) for index in range(12)), ShardWriter(folder, made_by="test"))
    return str(folder / "*.tar")


@pytest.fixture
def train_config(tmp_path: Path, scene_shards: str) -> TrainConfig:
    """A run of a few steps from the tiny model, on all six tasks."""
    shares = {name: 0.15 for name in TASKS} | {"depth": 0.25}
    source = SourceConfig(name="scenes", shards=scene_shards, weight=1.0, tasks=shares)
    return TrainConfig(
        run=str(tmp_path / "run"),
        steps=6,
        batch_size=4,
        log_every=1,
        validate_every=0,
        checkpoint_every=2,
        model=ModelConfig(base="tiny"),
        data=DataConfig(sources=[source], size=64, workers=0, validation_count=2, augment=AugmentConfig(crop=0.5)),
        flow=FlowConfig(share_at_one=0.3),
        optim=OptimConfig(lr=1e-3, warmup=2, schedule="cosine", ema=0.9),
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model wide enough for rank 1 within one percent."""
    model = make_model()
    model.settings.tasks = [task.as_dict() for task in known_tasks()]
    return save_model(model, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, and a folder of targets for every kind."""
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, scene_shards: str) -> Path:
    """A folder with a small model, pictures good and bad, shards, pairs and configs."""
    return write_world(tmp_path_factory.mktemp("world"), Path(scene_shards).parent)
