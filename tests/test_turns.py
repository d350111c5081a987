"""Turned views: the mean over them turns with the picture, and tasks of directions and places refuse it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shots import plan
from small import generator, make_model, pictures
from test_windows import ask

from diception.config import SamplingConfig
from diception.inference import Pipeline, generate
from diception.inference.turns import WAYS, turn, turn_back
from diception.model.adapters import read_info
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


def test_given_noise_turns_too() -> None:
    model, image = make_model(), pictures(1, 64)
    sampling, noise = SamplingConfig(2, 1.0, turns=True), torch.randn(1, 16, 8, 8, generator=generator(1))
    painted = generate(model, ask(image), sampling, noise)
    views = [
        turn_back(generate(model, ask(turn(image, way)), replace(sampling, turns=False), turn(noise, way)), way)
        for way in range(WAYS)
    ]
    torch.testing.assert_close(painted, torch.stack(views).mean(0))


def test_an_adapter_remembers_that_its_task_has_no_up_and_down(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out", turns=True))
    assert report is not None and read_info(report.adapter).sampling["turns"]
    pipeline = Pipeline.from_pretrained(base, adapter=report.adapter)
    learned = str(report.task["name"])
    assert pipeline.adapters.sampling(pipeline.get_task(learned)).turns
    assert not pipeline.adapters.sampling(pipeline.get_task("normal")).turns
    with pytest.raises(ValueError, match="what kind depth paints does not turn"):
        adapt(plan(base, pairs, tmp_path / "depth", kind="depth", turns=True))
