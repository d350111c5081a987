"""Adaptation: a small adapter and an honest report for every kind of target, from nothing but the images shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from small import make_model

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, Keypoints, NormalMap
from diception.config import AugmentConfig, FewShotConfig, SamplingConfig, load_config
from diception.datasets.folder import PairedFolder
from diception.datasets.synthetic import render_scene
from diception.inference import Pipeline, Prediction
from diception.model.checkpoint import save_model
from diception.tasks import known_tasks
from diception.training.few_shot import adapt

KINDS = ("mask", "labels", "depth", "normal", "image", "pose")
PAIRS = 6


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model wide enough for rank 1 within one percent."""
    model = make_model()
    model.settings.tasks = [task.as_dict() for task in known_tasks()]
    return save_model(model, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, and a folder of targets for every kind."""
    root = tmp_path_factory.mktemp("pairs")
    for name in ("images", *KINDS):
        (root / name).mkdir()
    for index in range(PAIRS):
        scene = render_scene(0, index, 64)
        Image.fromarray(scene.image).save(root / "images" / f"{index}.png")
        _targets(root, str(index), scene.image, scene.annotations)
    return root


def _targets(root: Path, name: str, image: np.ndarray, annotations: dict) -> None:
    mask, instances, pose = annotations["mask"], annotations["instances"], annotations["pose"]
    assert isinstance(mask, BinaryMask) and isinstance(instances, InstanceMasks) and isinstance(pose, Keypoints)
    depth, normal = annotations["depth"], annotations["normal"]
    assert isinstance(depth, DepthMap) and isinstance(normal, NormalMap)
    Image.fromarray(mask.mask.astype(np.uint8) * 255).save(root / "mask" / f"{name}.png")
    labels = mask.mask.astype(np.uint8) + 2 * instances.masks.any(axis=0)
    Image.fromarray(np.minimum(labels, 2).astype(np.uint8)).save(root / "labels" / f"{name}.png")
    np.save(root / "depth" / f"{name}.npy", depth.values)
    np.save(root / "normal" / f"{name}.npy", normal.normals)
    Image.fromarray(255 - image).save(root / "image" / f"{name}.png")
    (root / "pose" / f"{name}.json").write_bytes(pose.to_bytes())


def plan(base: Path, pairs: Path, out: Path, kind: str = "mask", **changes) -> FewShotConfig:  # noqa: ANN003
    config = FewShotConfig(
        model=str(base), images=str(pairs / "images"), targets=str(pairs / kind), kind=kind, name="novel", out=str(out)
    )
    config.steps, config.batch_size, config.held_out, config.workers = 3, 2, 2, 0
    config.augment, config.sampling = AugmentConfig(crop=0.5, photometric=0.1), SamplingConfig(1, 1.0)
    for name, value in changes.items():
        assert hasattr(config, name)
        setattr(config, name, value)
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_learned_measured_and_used(base: Path, pairs: Path, tmp_path: Path, kind: str) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out", kind))
    out = tmp_path / "out"
    assert 0 < report.share <= 0.01
    assert (report.images, report.before.count, report.after.count) == (PAIRS - 2, 2, 2)
    assert report.before.protocol == report.after.protocol and report.before.primary == report.after.primary
    stored = json.loads((out / "report.json").read_text())
    assert stored["share"] == report.share and stored["images"] == PAIRS - 2
    assert stored["after"]["metrics"].keys() == report.after.metrics.keys()
    assert stored["after"] == report.after.as_dict()
    assert stored["after"]["baselines"]
    assert Image.open(out / "panel.png").width > 100
    pipeline = Pipeline.from_pretrained(base, adapter=report.adapter)
    assert pipeline.tasks["novel"].as_dict() == report.task
    prediction = pipeline(render_scene(1, 0, 48).image, task="novel", steps=1)
    assert isinstance(prediction, Prediction) and prediction.annotation.size == (48, 48)
    assert prediction.annotation.kind == kind


def content(path: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """Metadata and the bytes of every tensor: safetensors writes metadata in no fixed order."""
    with safe_open(path, framework="np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def test_the_same_seed_gives_the_same_bytes_and_held_out_images_have_no_part(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    """Other pixels in the held-out pairs change the measurement but not one bit of the adapter."""
    first = adapt(plan(base, pairs, tmp_path / "first"))
    changed = shutil.copytree(pairs, tmp_path / "pairs")
    _, held_out = PairedFolder(changed / "images", changed / "mask", "mask").split(2, 0)
    for image, target in held_out.pairs:
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
        Image.fromarray(255 - np.asarray(Image.open(target))).save(target)
    second = adapt(plan(base, changed, tmp_path / "second"))
    assert content(first.adapter) == content(second.adapter)
    assert first.before.metrics != second.before.metrics
    other = adapt(plan(base, pairs, tmp_path / "other", seed=1))
    assert content(first.adapter)[1] != content(other.adapter)[1]


def test_a_changed_training_image_changes_the_adapter(base: Path, pairs: Path, tmp_path: Path) -> None:
    first = adapt(plan(base, pairs, tmp_path / "first"))
    changed = shutil.copytree(pairs, tmp_path / "pairs")
    shown, _ = PairedFolder(changed / "images", changed / "mask", "mask").split(2, 0)
    for image, _ in shown.pairs:
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    second = adapt(plan(base, changed, tmp_path / "second"))
    assert content(first.adapter)[1] != content(second.adapter)[1]


def test_the_model_that_is_adapted_stays_as_it_is(base: Path, pairs: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    adapt(plan(base, pairs, tmp_path / "out"))
    assert before == {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_an_adapter_is_refused_by_another_model(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out"))
    with pytest.raises(ValueError, match="was made for the base"):
        Pipeline.from_pretrained("tiny", adapter=report.adapter)


def test_a_third_is_held_out_where_nothing_is_said(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out", held_out=0, steps=1))
    assert (report.images, report.after.count) == (4, 2)


def test_the_shipped_config_fits_the_schema() -> None:
    config = load_config("few_shot", schema=FewShotConfig)
    assert config.adapter.max_share <= 0.01 and config.steps > 0


@pytest.mark.parametrize(("name", "message"), [("depth", "'depth' is the name of a task"), ("pose", "'pose'")])
def test_a_taken_name_is_refused(base: Path, pairs: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(plan(base, pairs, tmp_path / "out", name=name))
    assert not (tmp_path / "out").exists()


def test_targets_that_cannot_be_painted_are_refused_before_training(base: Path, pairs: Path, tmp_path: Path) -> None:
    flat = shutil.copytree(pairs / "depth", tmp_path / "depth")
    for path in flat.iterdir():
        np.save(path, np.zeros((64, 64), np.float32))
    config = plan(base, pairs, tmp_path / "out", "depth", targets=str(flat))
    with pytest.raises(ValueError):
        adapt(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("part", "renamed"), [("images", False), ("mask", False), ("images", True)])
def test_other_images_in_the_folder_of_an_adaptation_are_refused(
    base: Path, pairs: Path, tmp_path: Path, part: str, renamed: bool
) -> None:
    copy = tmp_path / "pairs"
    shutil.copytree(pairs, copy)
    adapt(plan(base, copy, tmp_path / "out"))
    if renamed:
        for folder in ("images", "mask"):
            shutil.copy(copy / folder / "0.png", copy / folder / "another.png")
    else:
        shutil.copy(copy / part / "1.png", copy / part / "0.png")
    with pytest.raises(ValueError, match="holds an adaptation with other (images|held_out)"):
        adapt(plan(base, copy, tmp_path / "out"))
