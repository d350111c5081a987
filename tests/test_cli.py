"""The command line: help for all, results where they are promised, and one clear line for whatever is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import TASKS
from PIL import Image
from small import make_model

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, load
from diception.cli import COMMANDS, main
from diception.cli.predict import parse_points
from diception.datasets.synthetic import render_scene
from diception.inference import Pipeline, Prediction
from diception.model.checkpoint import save_model
from diception.tasks import known_tasks

KINDS = ("synthetic", "coco", "check")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, scene_shards: str) -> Path:
    """A folder with a small model, pictures good and bad, shards, pairs and configs."""
    root = tmp_path_factory.mktemp("world")
    model = make_model()
    model.settings.tasks = [task.as_dict() for task in known_tasks()]
    save_model(model, root / "model")
    (root / "shards").mkdir()
    for path in Path(scene_shards).parent.iterdir():
        shutil.copy(path, root / "shards")
    _pictures(root)
    _pairs(root)
    (root / "no.tar").write_bytes(b"this is no tar" * 100)
    (root / "no.yaml").write_text("steps: [1, 2\n")
    (root / "train.yaml").write_text(
        json.dumps(
            {
                "run": str(root / "out"),
                "steps": 1,
                "batch_size": 2,
                "validate_every": 0,
                "model": {"base": str(root / "model")},
                "data": {
                    "size": 64,
                    "workers": 0,
                    "sources": [{"name": "a", "shards": str(root / "shards" / "*.tar"), "tasks": {"depth": 1.0}}],
                },
            }
        )
    )
    return root


def _pictures(root: Path) -> None:
    scene = render_scene(0, 0, 64)
    Image.fromarray(scene.image[:40]).save(root / "good.png")
    Image.fromarray(scene.image).save(root / "good.jpg")
    whole = (root / "good.jpg").read_bytes()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "text.jpg").write_text("no picture")
    (root / "empty").mkdir()


def _pairs(root: Path) -> None:
    for folder in ("images", "masks", "other", "broken"):
        (root / folder).mkdir()
    for index in range(5):
        scene = render_scene(0, index, 64)
        mask = scene.annotations["mask"]
        assert isinstance(mask, BinaryMask)
        Image.fromarray(scene.image).save(root / "images" / f"{index}.png")
        Image.fromarray(scene.image).save(root / "broken" / f"{index}.png")
        Image.fromarray(mask.mask.astype(np.uint8) * 255).save(root / "masks" / f"{index}.png")
        Image.fromarray(mask.mask.astype(np.uint8) * 255).save(root / "other" / f"x{index}.png")
    # One of five is cut off, whichever side of the split it falls on: all others are whole.
    data = (root / "broken" / "3.png").read_bytes()
    (root / "broken" / "3.png").write_bytes(data[: len(data) // 2])


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*")}


def command(text: str, root: Path) -> list[str]:
    return [word.replace("ROOT", str(root)) for word in text.split()]


@pytest.mark.parametrize("words", [[], *[[name] for name in COMMANDS], *[["shards", kind] for kind in KINDS]])
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--help"])
    out = capsys.readouterr().out
    assert leaving.value.code == 0
    assert out.startswith(" ".join(["usage: diception", *words]))
    if not words:
        assert all(name in out for name in COMMANDS)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0 and capsys.readouterr().out.startswith("diception 0.")


def source(shards: str, task: str, share: float) -> str:
    """An override with one source."""
    return f'data.sources=[{{"name":"a","shards":"{shards}","tasks":{{"{task}":{share}}}}}]'


PREDICT = "predict --model ROOT/model --out ROOT/out --steps 1"
ADAPT = "adapt --model ROOT/model --out ROOT/out --name new --steps 1"
BAD = {
    "missing image": (f"{PREDICT} --task depth --image ROOT/nowhere.jpg", "nowhere.jpg: no such file"),
    "one image of two missing": (f"{PREDICT} --task depth --image ROOT/good.jpg ROOT/nowhere.jpg", "nowhere.jpg"),
    "truncated image": (f"{PREDICT} --task depth --image ROOT/truncated.jpg", "truncated.jpg: image does not decode"),
    "text as image": (f"{PREDICT} --task depth --image ROOT/text.jpg", "text.jpg: image does not decode"),
    "folder as image": (f"{PREDICT} --task depth --image ROOT/empty", "empty"),
    "images of one name": (f"{PREDICT} --task depth --image ROOT/good.jpg ROOT/good.png", "named 'good'"),
    "unknown task": (f"{PREDICT} --task dept --image ROOT/good.jpg", "unknown task 'dept'; this model knows depth, "),
    "one task of two unknown": (f"{PREDICT} --task depth,dept --image ROOT/good.jpg", "knows depth, entity_segment"),
    "points out of range": (
        f"{PREDICT} --task depth,point_segmentation --image ROOT/good.jpg --points 0.5,1.5",
        "out of range",
    ),
    "points in pixels": (f"{PREDICT} --task point_segmentation --image ROOT/good.jpg --points 12,30", "out of range"),
    "points not numbers": (f"{PREDICT} --task all --image ROOT/good.jpg --points 0.5,x", "--points is '0.5,x'"),
    "points of one number": (f"{PREDICT} --task all --image ROOT/good.jpg --points 0.5", "--points is '0.5'"),
    "points empty": (f"{PREDICT} --task all --image ROOT/good.jpg --points ;", "--points is ';'"),
    "points nan": (f"{PREDICT} --task point_segmentation --image ROOT/good.jpg --points nan,0.5", "out of range"),
    "six points": (
        f"{PREDICT} --task point_segmentation --image ROOT/good.jpg --points 0,0;0,1;1,0;1,1;0.5,0.5;0.1,0.1",
        "needs 1 to 5 points, but 6",
    ),
    "points missing": (f"{PREDICT} --task depth,point_segmentation --image ROOT/good.jpg", "needs 1 to 5 points"),
    "category missing": (f"{PREDICT} --task depth,semantic_segmentation --image ROOT/good.jpg", "needs a category"),
    "zero steps": (
        "predict --model ROOT/model --out ROOT/out --task depth --image ROOT/good.jpg --steps 0",
        "--steps is 0",
    ),
    "guidance": (f"{PREDICT} --task depth --image ROOT/good.jpg --guidance-scale nan", "guidance_scale is nan"),
    "seed": (f"{PREDICT} --task depth --image ROOT/good.jpg --seed 99999999999999999999", "it must be from 0 to"),
    "missing model": ("predict --model ROOT/nowhere --out ROOT/out --task depth --image ROOT/good.jpg", "no model at"),
    "folder without model": (
        "predict --model ROOT/empty --out ROOT/out --task depth --image ROOT/good.jpg",
        "not a model",
    ),
    "missing adapter": (f"{PREDICT} --task depth --image ROOT/good.jpg --adapter ROOT/nowhere", "no adapter at"),
    "text as adapter": (
        "predict --model ROOT/model --out ROOT/out --task depth --image ROOT/good.jpg --adapter ROOT/x.safetensors",
        "no adapter at",
    ),
    "evaluate: no such shard": (
        "evaluate --model ROOT/model --shards ROOT/nowhere/*.tar --out ROOT/out",
        "no shard matches",
    ),
    "evaluate: missing shard": ("evaluate --model ROOT/model --shards ROOT/nowhere.tar --out ROOT/out", "nowhere.tar"),
    "evaluate: no tar": ("evaluate --model ROOT/model --shards ROOT/no.tar --out ROOT/out", "no.tar"),
    "evaluate: unknown task": (
        "evaluate --model ROOT/model --tasks dept --out ROOT/out",
        "unknown task 'dept'; this model",
    ),
    "codec-check: encoding": ("codec-check --encoding pallette --count 1", "no task has the encoding 'pallette'"),
    "evaluate: size": ("evaluate --model ROOT/model --out ROOT/out --size 100", "size is 100 x 100"),
    "evaluate: batch": ("evaluate --model ROOT/model --out ROOT/out --batch-size 0", "--batch-size 0"),
    "evaluate: missing model": ("evaluate --model ROOT/nowhere --out ROOT/out", "no model at"),
    "train: unknown key": ("train ROOT/train.yaml stepps=3", "unknown key stepps; did you mean steps?"),
    "train: unknown nested key": ("train ROOT/train.yaml optim.lrr=3", "unknown key optim.lrr; did you mean optim.lr?"),
    "train: wrong type": ("train ROOT/train.yaml steps=many", "steps"),
    "train: missing config": ("train nowhere", "no config 'nowhere'"),
    "train: broken yaml": ("train ROOT/no.yaml", "no.yaml: not readable as yaml"),
    "train: missing base": ("train ROOT/train.yaml model.base=ROOT/nowhere", "no model at"),
    "train: unknown task": (
        "train ROOT/train.yaml " + source("ROOT/shards/*.tar", "dept", 1),
        "unknown task 'dept'",
    ),
    "train: no tar": ("train ROOT/train.yaml " + source("ROOT/no.tar", "depth", 1), "no.tar"),
    "train: shares": (
        "train ROOT/train.yaml " + source("ROOT/shards/*.tar", "depth", 0.7),
        "sum to 1",
    ),
    "train: no source": ("train ROOT/train.yaml data.sources=[]", "data.sources is empty"),
    "train: batch": ("train ROOT/train.yaml accumulate=3", "batch_size 2 is not a multiple"),
    "train: schedule": ("train ROOT/train.yaml optim.schedule=cosin", "optim.schedule is 'cosin'; allowed"),
    "train: density": ("train ROOT/train.yaml flow.density=normal", "density"),
    "train: precision": ("train ROOT/train.yaml precision=8bit", "8bit"),
    "train-autoencoder: precision": (
        "train-autoencoder tiny/autoencoder precision=8bit",
        "8bit'; allowed: 32-true, bf16-mixed",
    ),
    "adapt: nothing matches": (f"{ADAPT} --images ROOT/images --targets ROOT/other", "has a target of its name"),
    "adapt: missing folder": (f"{ADAPT} --images ROOT/nowhere --targets ROOT/masks", "nowhere: no such folder"),
    "adapt: unknown kind": (f"{ADAPT} --images ROOT/images --targets ROOT/masks --kind msk", "'msk'"),
    "adapt: name taken": (
        "adapt --model ROOT/model --out ROOT/out --name depth --images ROOT/images --targets ROOT/masks",
        "'depth' is the name of a task",
    ),
    "adapt: truncated image": (f"{ADAPT} --images ROOT/broken --targets ROOT/masks", "broken/3.png"),
    "adapt: truncated image, another split": (f"{ADAPT} --images ROOT/broken --targets ROOT/masks seed=1", "3.png"),
    "adapt: size": (
        f"{ADAPT} --images ROOT/images --targets ROOT/masks size=100",
        "size is 100; it must be a multiple of 16",
    ),
    "adapt: too large": (f"{ADAPT} --images ROOT/images --targets ROOT/masks size=4096", "positions for at most"),
    "adapt: held out": (f"{ADAPT} --images ROOT/images --targets ROOT/masks --held-out 5", "held_out is 5"),
    "adapt: unknown key": (
        f"{ADAPT} --images ROOT/images --targets ROOT/masks lrr=1",
        "unknown key lrr; did you mean lr?",
    ),
    "adapt: missing model": (
        "adapt --model ROOT/nowhere --out ROOT/out --name new --images ROOT/images --targets ROOT/masks",
        "no model at",
    ),
    "shards: count": ("shards synthetic --count 0 --out ROOT/out", "--count is 0"),
    "shards: domain": ("shards synthetic --count 2 --domain 7 --out ROOT/out", "domain"),
    "shards: size": ("shards synthetic --count 2 --size 3 --out ROOT/out", "at least 8 pixels"),
    "shards: missing json": ("shards coco --images ROOT/images --instances ROOT/nowhere --out ROOT/out", "nowhere"),
    "shards: no coco file": (
        "shards coco --images ROOT/images --instances ROOT/train.yaml --out ROOT/out",
        "not a COCO",
    ),
    "check: nothing there": ("shards check ROOT/nowhere/*.tar", "no shard matches"),
    "codec-check: unknown task": ("codec-check --task dept --out ROOT/out", "unknown task 'dept'; known: "),
    "codec-check: missing autoencoder": ("codec-check --autoencoder ROOT/empty --out ROOT/out", "empty"),
    "codec-check: no tar": ("codec-check --shards ROOT/no.tar --out ROOT/out", "no.tar"),
    "export: missing run": ("export ROOT/nowhere --out ROOT/out", "no model at"),
    "export: existing": ("export ROOT/model --out ROOT/empty", "empty exists"),
    "export: release with guidance": (
        "export ROOT/model --format release --guidance-scale 0 --out ROOT/out",
        "--guidance-scale goes with --format directory",
    ),
    "export: missing adapter": ("export ROOT/model --merge-adapter ROOT/nowhere --out ROOT/out", "no adapter at"),
    "prompts: missing model": ("prompts list --model ROOT/nowhere", "no model at"),
    "prompts: none": ("prompts add --model ROOT/model", "no prompt given"),
    "quickstart: missing photo": ("quickstart --out ROOT/out --photo ROOT/nowhere.jpg", "nowhere.jpg"),
    "quickstart: truncated photo": ("quickstart --out ROOT/out --photo ROOT/truncated.jpg", "truncated.jpg"),
    "quickstart: missing model": ("quickstart --out ROOT/out --model ROOT/nowhere", "no model at"),
    "autoencoder: unknown key": (
        "train-autoencoder tiny/autoencoder widht=3",
        "unknown key widht; did you mean width?",
    ),
    "autoencoder: missing shards": (
        "train-autoencoder tiny/autoencoder out=ROOT/out " + source("ROOT/nowhere/*.tar", "depth", 1),
        "no shard matches",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(case: str, world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, message = BAD[case]
    before = tree(world)
    status = main(command(text, world))
    captured = capfd.readouterr()
    lines = captured.err.strip().splitlines()
    assert status == 2, captured.err
    assert len(lines) == 1, captured.err
    assert lines[0].startswith(f"diception {text.split()[0]}: ")
    assert message in lines[0]
    assert tree(world) == before, "something was left behind"


@pytest.mark.parametrize("case", ["missing image", "train: unknown key"])
def test_bad_input_in_a_process_of_its_own(case: str, world: Path) -> None:
    text, message = BAD[case]
    done = subprocess.run(
        [sys.executable, "-m", "diception", *command(text, world)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


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
