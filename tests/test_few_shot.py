"""Adaptation: a small adapter and an honest report for every kind of target, from nothing but the images shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shots import KINDS, PAIRS, apart, content, plan

from diception.config import FewShotConfig, load_config
from diception.datasets.synthetic import render_scene
from diception.inference import Pipeline, Prediction
from diception.model.checkpoint import load_model
from diception.training.few_shot import adapt


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


def test_the_same_seed_gives_the_same_bytes_and_held_out_images_have_no_part(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    """Other pixels in the held-out pairs change the measurement but not one bit of the adapter."""
    folders = apart(pairs, tmp_path)
    first = adapt(plan(base, pairs, tmp_path / "first", held_out=0, **folders))
    for name in ("val_images", "val_targets"):
        for path in Path(folders[name]).iterdir():
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    second = adapt(plan(base, pairs, tmp_path / "second", held_out=0, **folders))
    assert first is not None and second is not None
    assert content(first.adapter) == content(second.adapter)
    assert first.before.metrics != second.before.metrics
    other = adapt(plan(base, pairs, tmp_path / "other", held_out=0, seed=1, **folders))
    assert content(first.adapter)[1] != content(other.adapter)[1]


def test_a_changed_training_image_changes_the_adapter(base: Path, pairs: Path, tmp_path: Path) -> None:
    folders = apart(pairs, tmp_path)
    first = adapt(plan(base, pairs, tmp_path / "first", held_out=0, **folders))
    for image in Path(folders["images"]).iterdir():
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    second = adapt(plan(base, pairs, tmp_path / "second", held_out=0, **folders))
    assert content(first.adapter)[1] != content(second.adapter)[1]


def test_the_model_that_is_adapted_stays_as_it_is(base: Path, pairs: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    adapt(plan(base, pairs, tmp_path / "out"))
    assert before == {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_an_adapter_is_refused_by_another_model(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out"))
    with pytest.raises(ValueError, match="was made for the base"):
        Pipeline.from_pretrained("tiny", adapter=report.adapter)


def test_targets_are_read_as_the_options_say(base: Path, pairs: Path, tmp_path: Path) -> None:
    names, other = tmp_path / "names.txt", shutil.copytree(pairs / "labels", tmp_path / "other")
    names.write_text("nothing\nshadow\nthing\n")
    for path in list(other.iterdir()):
        path.rename(other / f"{path.stem}_map.png")
    changes = {"targets": str(other), "target_suffix": "_map", "names": str(names)}
    report = adapt(plan(base, pairs, tmp_path / "labels", "labels", **changes))
    assert list(report.task["labels"]) == ["nothing", "shadow", "thing"]
    report = adapt(plan(base, pairs, tmp_path / "inverted", invert=True, steps=1))
    plain = adapt(plan(base, pairs, tmp_path / "plain", steps=1))
    assert report.before.baselines["everything"]["iou"] == pytest.approx(
        1 - plain.before.baselines["everything"]["iou"]
    )
    with pytest.raises(ValueError, match="--invert is for --kind mask, not for depth"):
        adapt(plan(base, pairs, tmp_path / "out", "depth", invert=True))
    names.write_text("nothing\n\n")
    with pytest.raises(ValueError, match="one name a line"):
        adapt(plan(base, pairs, tmp_path / "out", "labels", names=str(names)))
    assert not (tmp_path / "out").exists()


def test_a_third_is_held_out_where_nothing_is_said(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out", held_out=0, steps=1))
    assert (report.images, report.after.count) == (4, 2)


def test_images_to_measure_on_may_have_a_folder_of_their_own(base: Path, pairs: Path, tmp_path: Path) -> None:
    """The numbers are those of the same images split off: nothing else depends on where they lie."""
    folders = apart(pairs, tmp_path)
    alone = adapt(plan(base, pairs, tmp_path / "apart", held_out=0, **folders))
    split = adapt(plan(base, pairs, tmp_path / "split"))
    assert content(alone.adapter) == content(split.adapter) and alone.after.metrics == split.after.metrics
    same = {"val_images": folders["images"], "val_targets": folders["targets"]}
    for wrong, message in (
        ({"held_out": 2}, "give one of them"),
        ({"held_out": 0, "val_targets": ""}, "go together"),
        ({"held_out": 0, **same}, "4 images of val_images are among those trained on"),
    ):
        with pytest.raises(ValueError, match=message):
            adapt(plan(base, pairs, tmp_path / "out", **{**folders, **wrong}))
    assert not (tmp_path / "out").exists()


def test_without_an_adapter_the_whole_model_learns(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out", adapter=None))
    assert report.share == 1 and report.adapter == str(tmp_path / "out" / "model")
    pipeline = Pipeline.from_pretrained(report.adapter)
    assert pipeline.tasks["novel"].as_dict() == report.task and "depth" in pipeline.tasks
    old, new = load_model(base).transformer.state_dict(), pipeline.model.transformer.state_dict()
    assert sum(not torch.equal(old[name], new[name]) for name in old) > len(old) / 2


def test_the_shipped_config_fits_the_schema() -> None:
    config = load_config("few_shot", schema=FewShotConfig)
    assert config.adapter is not None and config.adapter.max_share <= 0.01 and config.steps > 0


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
    with pytest.raises(ValueError, match="targets to train on can be painted as depth"):
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
        Image.fromarray(255 - np.array(Image.open(copy / "images" / "0.png"))).save(copy / "images" / "another.png")
        shutil.copy(copy / "mask" / "0.png", copy / "mask" / "another.png")
    else:
        shutil.copy(copy / part / "1.png", copy / part / "0.png")
    with pytest.raises(ValueError, match="holds an adaptation with other (images|held_out)"):
        adapt(plan(base, copy, tmp_path / "out"))
