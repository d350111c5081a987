"""Export: what leaves a run answers as the run did, alone in its folder, and replaces nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TASKS
from small import make_model

from diception.card import Measured, model_card
from diception.cli import main
from diception.config import AdapterConfig, TrainConfig
from diception.datasets.synthetic import render_scene
from diception.export import export_directory
from diception.inference import Pipeline, Prediction
from diception.model.adapters import save_adapter
from diception.model.checkpoint import load_model, save_model
from diception.model.lora import adapter_weights, add_lora
from diception.tasks import known_tasks, task_for_kind
from diception.training.run import train

IMAGE = render_scene(0, 3, 48).image
OPTIONS = {"point_segmentation": {"points": [(0.4, 0.6)]}, "semantic_segmentation": {"category": "person"}}


def paint(pipeline: Pipeline, task: str) -> torch.Tensor:
    prediction = pipeline(IMAGE, task=task, steps=2, seed=1, **OPTIONS.get(task, {}))
    assert isinstance(prediction, Prediction)
    return prediction.rgb


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's directory."""
    model = make_model()
    model.settings.tasks = [task.as_dict() for task in known_tasks()]
    model.settings.licence, model.settings.base_model = "bsd-2-clause", "nothing"
    return save_model(model, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for a new task, far enough from zero to matter."""
    model = Pipeline.from_pretrained(base).model
    add_lora(model, rank=2)
    generator = torch.Generator().manual_seed(0)
    for weight in adapter_weights(model).values():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    return save_adapter(model, path, [task_for_kind("mask", "crack").as_dict()])


def test_a_run_answers_alike_after_export(train_config: TrainConfig, tmp_path: Path) -> None:
    folder = train(replace(train_config, steps=2, batch_size=2))
    out = export_directory(train_config.run, tmp_path / "deep" / "exported")
    trained, exported = Pipeline.from_pretrained(folder), Pipeline.from_pretrained(out)
    assert set(exported.tasks) == set(trained.tasks) >= set(TASKS)
    for task in TASKS:
        assert torch.equal(paint(trained, task), paint(exported, task))
    # Told by a path that the checkpoints of the run are not part of.
    assert {path.name for path in out.iterdir()} >= {"README.md", "diception.json", "transformer", "vae"}
    assert not list(out.rglob("*.ckpt"))


def test_a_merged_adapter_answers_as_the_adapter_did(base: Path, adapter: Path, tmp_path: Path) -> None:
    merged = Pipeline.from_pretrained(export_directory(base, tmp_path / "merged", adapter))
    applied, plain = Pipeline.from_pretrained(base, adapter=adapter), Pipeline.from_pretrained(base)
    assert set(merged.tasks) == set(applied.tasks) == {*plain.tasks, "crack"}
    torch.testing.assert_close(paint(merged, "crack"), paint(applied, "crack"), atol=1e-4, rtol=0)
    assert (paint(plain, "foreground") - paint(merged, "foreground")).abs().max() > 1e-2
    assert torch.equal(paint(plain, "foreground"), paint(applied, "foreground")), "which the adapter did not learn"


def test_an_adapter_of_a_known_name_replaces_the_task(base: Path, adapter: Path, tmp_path: Path) -> None:
    once = export_directory(base, tmp_path / "once", adapter)
    settings = json.loads((once / "diception.json").read_text())
    (once / "diception.json").write_text(json.dumps(settings | {"sampling": {"crack": {"steps": 1}}}))
    model = Pipeline.from_pretrained(once).model
    add_lora(model, rank=1)
    task = replace(task_for_kind("mask", "crack"), threshold=0.25)  # type: ignore[type-var]
    again = save_adapter(model, tmp_path / "again.safetensors", [task.as_dict()])
    tasks = Pipeline.from_pretrained(export_directory(once, tmp_path / "twice", again)).model.settings.tasks
    assert [entry["threshold"] for entry in tasks if entry["name"] == "crack"] == [0.25]
    assert "crack" not in load_model(tmp_path / "twice").settings.sampling, "nor is it sampled as the old one was"


def test_the_export_stands_alone(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Moved elsewhere and without its text encoder it still knows the prompts of all its tasks."""
    moved = export_directory(base, tmp_path / "here", adapter).rename(tmp_path / "there")
    pipeline = Pipeline.from_pretrained(moved)
    pipeline.model.bank.encoder = None
    assert torch.isfinite(paint(pipeline, "crack")).all()
    assert torch.isfinite(paint(pipeline, "depth")).all()
    with pytest.raises(ValueError, match="prompt"):
        pipeline.model.bank[["never seen before"]]


def test_weights_may_be_stored_in_16_bits(base: Path, tmp_path: Path) -> None:
    full = export_directory(base, tmp_path / "full")
    half = export_directory(base, tmp_path / "half", dtype=torch.bfloat16, autoencoder_dtype=torch.float16)

    def size(folder: Path, part: str) -> int:
        return sum(path.stat().st_size for path in (folder / part).glob("*.safetensors"))

    assert size(half, "transformer") < 0.6 * size(full, "transformer")
    assert size(half, "vae") < 0.6 * size(full, "vae")
    painted = paint(Pipeline.from_pretrained(half), "depth")
    assert torch.isfinite(painted).all()
    assert (painted - paint(Pipeline.from_pretrained(full), "depth")).abs().mean() < 0.05


def test_what_exists_is_never_replaced(base: Path, tmp_path: Path) -> None:
    for name, make in {"folder": Path.mkdir, "file": Path.touch}.items():
        make(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} exists"):
            export_directory(base, tmp_path / name)
    assert not any((tmp_path / "folder").iterdir())


@pytest.mark.parametrize(
    ("run", "wrong_adapter", "message"),
    [
        ("nowhere", False, "no model at"),
        ("empty", False, "not a model directory"),
        ("tiny", True, "was made for the base"),
    ],
)
def test_a_refused_export_leaves_nothing(
    adapter: Path, tmp_path: Path, run: str, wrong_adapter: bool, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    source = run if run == "tiny" else tmp_path / run
    with pytest.raises(ValueError, match=message):
        export_directory(source, tmp_path / "out", adapter if wrong_adapter else None)
    assert not (tmp_path / "out").exists()


def test_a_merged_adapter_is_told_of(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = export_directory(base, tmp_path / "out", {adapter: 0.5})
    card = (out / "README.md").read_text()
    assert "x 0.5" in card and "An adapter was merged into the weights" in card
    assert "merged" in load_model(out).settings.training


def test_the_card_says_what_the_model_does(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = export_directory(base, tmp_path / "out", adapter)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: bsd-2-clause\n")
    assert "Base: nothing. Resolution: 64 px." in card
    for task in Pipeline.from_pretrained(out).tasks.values():
        assert f"| {task.name} | `{task.token}` | {task.encoding} |" in card
    model = make_model()
    model.settings.training = {"steps": 7, "lr": 0.1}
    assert "Training: steps 7, lr 0.1" in model_card(model)
    assert "Training: not recorded" in model_card(make_model())


@pytest.fixture
def scores(base: Path, tmp_path: Path) -> Path:
    """A report of the evaluation of the base at two numbers of steps."""
    out = tmp_path / "scores.json"
    command = ["evaluate", "--model", str(base), "--tasks", "depth,pose", "--steps", "1", "2", "--count", "2"]
    assert main([*command, "--out", str(out)]) == 0
    return out


def test_the_card_shows_what_was_measured(base: Path, scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    about = "For rendered scenes only."
    command = ["export", str(base), "--steps", "1", "--guidance-scale", "1.5", "--about", about]
    assert main([*command, "--scores", str(scores), "--out", str(out)]) == 0
    card = (out / "README.md").read_text()
    assert about in card and "Sampled in 1 step, guidance 1.5" in card
    assert "| task | protocol, metric | samples | 1 step, guidance 2 | 2 steps, guidance 2 | baselines |" in card
    found = json.loads(scores.read_text())["scores"]
    for score in found:
        row = next(line for line in card.splitlines() if f"| {score['protocol']}, {score['primary']} " in line)
        column = 4 if score["steps"] == 1 else 5
        value = score["metrics"][score["primary"]]
        assert row.split(" | ")[column - 1] == ("" if value is None else f"{value:.3f}")
    exported = Pipeline.from_pretrained(out)
    assert (exported.model.settings.steps, exported.model.settings.guidance_scale) == (1, 1.5)
    own = Pipeline.from_pretrained(base)(IMAGE, task="depth", steps=1, guidance_scale=1.5)
    assert isinstance(own, Prediction)
    by_default = exported(IMAGE, task="depth")
    assert isinstance(by_default, Prediction) and torch.equal(by_default.rgb, own.rgb)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "has no scores"),
        ('{"scores": [{"task": "depth"}]}', "a score without protocol"),
        ('{"scores": [1]}', "a score without task"),
        (
            '{"scores": [{"task": "a", "protocol": "b", "primary": "iou", "higher_is_better": true, "count": 1, '
            '"size": 8, "steps": 1, "guidance_scale": 1, "metrics": 5}]}',
            "whose metrics do not hold its 'iou'",
        ),
        ("[", "JSON"),
    ],
)
def test_a_report_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Measured.read(tmp_path / "report.json")


def test_steps_that_cannot_be_are_refused_and_leave_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        export_directory(base, tmp_path / "out", steps=0)
    assert not (tmp_path / "out").exists()


def test_the_command_exports(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(base), "--out", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out") in capsys.readouterr().out
    own, exported = Pipeline.from_pretrained(base), Pipeline.from_pretrained(tmp_path / "out")
    assert np.array_equal(paint(own, "pose"), paint(exported, "pose"))


def test_an_adapter_run_has_no_model_to_export(train_config: TrainConfig, tmp_path: Path) -> None:
    train(replace(train_config, steps=1, batch_size=2, adapter=AdapterConfig()))
    with pytest.raises(ValueError, match="holds an adapter and no model: export its base"):
        export_directory(train_config.run, tmp_path / "out")
