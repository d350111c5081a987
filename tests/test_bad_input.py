"""Whatever is wrong on the command line gets one clear line and status 2, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from world import PREDICT, command, tree

from diception.cli import main


def source(shards: str, task: str, share: float) -> str:
    """An override with one source."""
    return f'data.sources=[{{"name":"a","shards":"{shards}","tasks":{{"{task}":{share}}}}}]'


OUT_OF_RANGE = (
    *("steps=-1", "batch_size=0", "accumulate=0", "devices=0", "nodes=0", "log_every=0", "checkpoint_every=0"),
    *("keep_checkpoints=0", "validate_every=-1", "optim.lr=-1.0", "optim.clip=-1.0", "optim.ema=2.0"),
    *("flow.prompt_dropout=10.0", "flow.share_at_one=-0.5", "data.workers=-1", "data.size=0"),
)
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
    "train: hold": (
        "train ROOT/train.yaml optim.schedule=cosine optim.hold=2",
        "optim.hold is 2.0; it must be from 0 to 1",
    ),
    **{
        f"train: {given}": (f"train ROOT/train.yaml {given}", f"{given.partition('=')[0]} is {given.partition('=')[2]}")
        for given in OUT_OF_RANGE
    },
    "train: a list by dots": ("train ROOT/train.yaml data.sources.0.shards=x", "lists are given as a whole"),
    "train: hold without a cosine": ("train ROOT/train.yaml optim.hold=0.5", "goes with optim.schedule=cosine"),
    "train-autoencoder: leaves": ("train-autoencoder tiny/autoencoder leaves=1", "leaves is 1.0; it must be in [0, 1)"),
    "train-autoencoder: one picture": (
        "train-autoencoder tiny/autoencoder batch_size=1",
        "batch_size 1 with leaves 0.25 has no room for image and target",
    ),
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
    "export: an adapter alone": (
        "export ROOT/adapted --out ROOT/out",
        "holds an adapter and no model: export its base with",
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
