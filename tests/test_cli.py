"""The command line: help for all, and results where they are promised."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import TASKS
from PIL import Image
from world import PREDICT, command

from diception.annotations import DepthMap, InstanceMasks, load
from diception.cli import COMMANDS, main
from diception.cli.predict import parse_points
from diception.inference import Pipeline, Prediction

KINDS = ("synthetic", "coco", "check")


@pytest.mark.parametrize("words", [[], *[[name] for name in COMMANDS], *[["shards", kind] for kind in KINDS]])
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--help"])
    out = capsys.readouterr().out
    assert leaving.value.code == 0
    assert out.startswith(" ".join(["usage: diception", *words]))
    if not words:
        assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("name", "key"), [("train", "optim.hold: 0.0"), ("adapt", "lr: "), ("train-autoencoder", "leaves")]
)
def test_every_key_is_told(name: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([name, "--keys"])
    assert leaving.value.code == 0 and f"\n{key}" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0 and capsys.readouterr().out.startswith("diception 0.")


def test_check_names_a_shard_that_is_no_tar(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(world / "no.tar", world / "shards" / "no.tar")
    try:
        with pytest.raises(SystemExit) as leaving:
            main(["shards", "check", str(world / "shards" / "*.tar")])
    finally:
        (world / "shards" / "no.tar").unlink()
    assert leaving.value.code == 1
    out = capsys.readouterr().out
    assert "12 samples" in out and "1 faults" in out and "no.tar" in out


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "deep" / "out"


def test_predict_writes_what_the_pipeline_says(world: Path, out: Path) -> None:
    words = "predict --model ROOT/model --task all --image ROOT/good.png ROOT/truncated.png --points 0.3,0.6 --seed 4"
    shutil.copy(world / "good.jpg", world / "truncated.png")  # a picture under another ending is still one
    try:
        status = main([*command(words, world), "--category", "person", "--steps", "1", "--out", str(out)])
    finally:
        (world / "truncated.png").unlink()
    assert status == 0
    names = {path.name for path in out.iterdir()}
    assert {f"{stem}.{task}.png" for stem in ("good", "truncated") for task in TASKS} <= names
    pipeline = Pipeline.from_pretrained(world / "model")
    own = pipeline(Image.open(world / "good.png"), "point_segmentation", points=[(0.6, 0.3)], steps=1, seed=4)
    assert isinstance(own, Prediction)
    saved = load("mask", out / "good.point_segmentation.mask.png")
    assert np.array_equal(saved.to_array(), own.annotation.to_array())
    depth = load("depth", out / "good.depth.depth.npy")
    assert isinstance(depth, DepthMap) and depth.size == (40, 64)
    assert isinstance(load("instances", out / "good.entity_segmentation.instances.json"), InstanceMasks)


def test_all_leaves_out_what_is_not_prompted(world: Path, out: Path) -> None:
    assert main([*command(f"{PREDICT} --task all --image ROOT/good.png", world), "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert "good.depth.png" in names
    assert not [name for name in names if "point_segmentation" in name or "semantic" in name]


def test_points_are_given_as_y_x() -> None:
    assert parse_points("0.1,0.2;0.3,0.4") == [(0.2, 0.1), (0.4, 0.3)]
    assert parse_points(" 0 , 1 ; ") == [(1.0, 0.0)]


def test_evaluate_prints_and_writes_the_scores(world: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "evaluate --model ROOT/model --shards ROOT/shards/*.tar --tasks depth,normal --count 3 --steps 1 2"
    assert main([*command(words, world), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    scores = json.loads(out.read_text())["scores"]
    protocols = ["normals/dsine", "normals/marigold-perimage"]
    expected = [("depth", "depth/marigold-ls-disp", steps) for steps in (1, 2)]
    expected += [("normal", protocol, steps) for steps in (1, 2) for protocol in protocols]
    assert [(score["task"], score["protocol"], score["steps"]) for score in scores] == expected
    for score in scores:
        assert f"{score['metrics'][score['primary']]:.3f}" in printed and score["protocol"] in printed
        assert score["count"] == 3 and score["baselines"]


def test_codec_check_writes_a_report(world: Path, out: Path) -> None:
    words = "codec-check --task depth,pose --autoencoder ROOT/model --shards ROOT/shards/*.tar --count 2 --size 64"
    panel = out.with_suffix(".png")
    assert main([*command(words, world), "--out", str(out), "--panel", str(panel)]) == 0
    report = json.loads(out.read_text())
    assert set(report) == {"depth", "pose"} and report["depth"]["depth/marigold-ls-disp"]["psnr_image"] > 5
    assert Image.open(panel).width > 64


def test_shards_are_made_checked_and_the_same_twice(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shards", "synthetic", "--count", "5", "--size", "32", "--samples-per-shard", "3", "--workers", "1"]
    for folder in ("a", "b"):
        assert main([*words, "--out", str(out / folder)]) == 0
    one, two = ({p.name: p.read_bytes() for p in (out / folder).glob("*.tar")} for folder in ("a", "b"))
    assert one == two and len(one) == 2
    capsys.readouterr()
    assert main(["shards", "check", str(out / "a" / "*.tar")]) == 0
    assert "5 samples in 2 shards" in capsys.readouterr().out
    assert main([*words, "--out", str(out / "a"), "--seed", "1"]) == 2, "other scenes into the same folder"


def test_prompts_are_listed_and_added(world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = shutil.copytree(world / "model", tmp_path / "model")
    assert main(["prompts", "add", "[[image2semantic]] zebra", "--model", str(model)]) == 0
    capsys.readouterr()
    assert main(["prompts", "list", "--model", str(model)]) == 0
    assert "[[image2semantic]] zebra" in capsys.readouterr().out.splitlines()


def test_train_runs_from_the_command(world: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(world / "train.yaml"), f"run={out}"]) == 0
    assert str(out / "model") in capsys.readouterr().out
    assert set(Pipeline.from_pretrained(out / "model").tasks) >= {"depth"}
