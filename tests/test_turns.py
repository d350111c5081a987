"""Turned views: the mean over them turns with the picture, and tasks of directions and places refuse it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shots import plan
from small import generator, make_model, pictures
from test_windows import ask

from diception.annotations import BinaryMask, RGBImage
from diception.config import SamplingConfig
from diception.datasets.sample import MemoryReader, Sample
from diception.datasets.synthetic import render_scene
from diception.datasets.transforms import turn as quarter_turn
from diception.evaluation import evaluate_tasks
from diception.flow import seeded_noise
from diception.inference import Pipeline, generate
from diception.inference.turns import WAYS, check_turns, turn, turn_back
from diception.model.adapters import read_info
from diception.tables import format_scores
from diception.tasks import task_for_kind
from diception.training.few_shot import adapt


def test_every_way_is_undone_and_none_is_another() -> None:
    picture = torch.rand(2, 3, 4, 6, generator=generator(0))
    turned = [turn(picture, way) for way in range(WAYS)]
    assert all(torch.equal(turn_back(one, way), picture) for way, one in enumerate(turned))
    assert {tuple(one.shape[2:]) for one in turned} == {(4, 6), (6, 4)}
    assert all(
        one.shape != other.shape or not torch.equal(one, other)
        for one in turned
        for other in turned
        if one is not other
    )


@pytest.mark.parametrize(("window", "side"), [(0, 64), (64, 128)])
def test_what_is_painted_turns_with_the_picture(window: int, side: int) -> None:
    """From zeros, for the noise does not turn; also where the picture is no square, and in windows."""
    model, image = make_model(), pictures(1, side)[..., : side * 3 // 4]
    sampling = SamplingConfig(1, 1.0, window, start="zero", turns=True)
    painted = generate(model, ask(image), sampling)
    plain = generate(model, ask(turn(image, 5)), replace(sampling, turns=False))
    assert not torch.allclose(plain, turn(generate(model, ask(image), replace(sampling, turns=False)), 5), atol=1e-3)
    for way in range(WAYS):
        torch.testing.assert_close(generate(model, ask(turn(image, way)), sampling), turn(painted, way))


def test_given_noise_is_what_the_seeds_draw() -> None:
    """As without views; on a view that is a quarter turn it has that view's sides."""
    model, image = make_model(), pictures(2, 64)[..., :48]
    sampling = SamplingConfig(2, 1.0, turns=True)
    noise = seeded_noise(torch.arange(2), (16, 8, 6))
    torch.testing.assert_close(generate(model, ask(image), sampling), generate(model, ask(image), sampling, noise))
    other = generate(model, ask(image), sampling, noise.flip(0))
    assert not torch.allclose(other, generate(model, ask(image), sampling, noise), atol=1e-3)


@pytest.mark.parametrize("kind", ["mask", "image"])
def test_tasks_that_may_be_turned_paint_what_turns(kind: str) -> None:
    task, sample = task_for_kind(kind, "novel"), render_scene(0, 0, 64)
    inverse = 1 - sample.image.transpose(2, 0, 1) / 255
    annotation = BinaryMask(inverse[0] > 0.5) if kind == "mask" else RGBImage(inverse)
    turned = quarter_turn(Sample("a", sample.image, {task.kind: annotation})).annotations[task.kind]
    painted, again = (task.encode(a, np.random.default_rng(0)).rgb for a in (annotation, turned))
    assert task.turns and np.array_equal(np.rot90(painted, 1, (1, 2)), again)


def test_tasks_of_directions_sides_and_places_refuse_views() -> None:
    pipeline = Pipeline.from_pretrained("tiny")
    refusing = [task for task in pipeline.tasks.values() if not task.turns]
    assert {"normal", "pose", "depth", "entity_segmentation", "point_segmentation"} <= {task.name for task in refusing}
    for task in refusing:
        with pytest.raises(ValueError, match=f"{task.name}.*does not turn with the picture"):
            pipeline.adapters.sampling(task, turns=True)
    with pytest.raises(ValueError, match="does not turn"):
        check_turns(task_for_kind("labels", "novel"), True)


def test_views_are_asked_for_switched_off_and_told() -> None:
    pipeline, image = Pipeline.from_pretrained("tiny"), render_scene(3, 0, 128).image
    views, plain = (pipeline(image, "foreground", turns=turns).rgb for turns in (True, False))  # type: ignore[union-attr]
    assert torch.equal(plain, pipeline(image, "foreground").rgb) and not torch.allclose(views, plain, atol=1e-3)  # type: ignore[union-attr]
    task, reader = task_for_kind("mask", "novel"), MemoryReader([render_scene(0, 0, 64)])
    [score] = evaluate_tasks(make_model(), [task], reader, [SamplingConfig(1, 1.0, turns=True)], count=1, size=64)
    assert score.turns and "8 views" in format_scores([score])


def test_an_adapter_remembers_that_its_task_has_no_up_and_down(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out", turns=True))
    assert report is not None and read_info(report.adapter).sampling["turns"]
    pipeline = Pipeline.from_pretrained(base, adapter=report.adapter)
    learned = str(report.task["name"])
    assert pipeline.adapters.sampling(pipeline.get_task(learned)).turns
    assert not pipeline.adapters.sampling(pipeline.get_task("normal")).turns
    assert not pipeline.adapters.sampling(pipeline.get_task(learned), turns=False).turns
    with pytest.raises(ValueError, match="does not turn"):
        adapt(plan(base, pairs, tmp_path / "depth", kind="depth", turns=True))


def test_an_older_folder_is_not_gone_on_with_as_if_it_had_views(base: Path, pairs: Path, tmp_path: Path) -> None:
    """A key that a folder's config lacks was at its default then."""
    config = plan(base, pairs, tmp_path / "out")
    adapt(config)
    noted = tmp_path / "out" / "few_shot.yaml"
    noted.write_text("".join(line for line in noted.read_text().splitlines(True) if not line.startswith("turns:")))
    assert adapt(config) is not None
    with pytest.raises(ValueError, match="turns"):
        adapt(replace(config, turns=True))
