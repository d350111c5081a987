"""Questions that cannot be answered are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from asking import POINTS, SIZE, ask
from numpy.typing import NDArray
from small import make_model

from diception.inference import Pipeline, Request
from diception.tasks import known_tasks


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(make_model(), known_tasks())


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"expected uint8 \(H, W, 3\)"),
        (np.zeros((8, 8, 3), np.float32), r"expected uint8 \(H, W, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), r"expected uint8 \(H, W, 3\)"),
        (torch.zeros(8, 8, 3), r"expected \(3, H, W\)"),
        (torch.zeros(1, 3, 8, 8), r"expected \(3, H, W\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"floats in \[0, 1\]"),
        (torch.full((3, 8, 8), 255.0), r"floats in \[0, 1\]"),
        (torch.full((3, 8, 8), float("nan")), r"floats in \[0, 1\]"),
    ],
)
def test_what_is_no_picture_is_refused(pipeline: Pipeline, wrong: NDArray | torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(pipeline, wrong)


@pytest.mark.parametrize("shape", [(16, 8, 8), (1, 16, 4, 8), (1, 4, 8, 8), (2, 16, 8, 8)])
def test_noise_of_another_shape_is_refused(
    pipeline: Pipeline, image: NDArray[np.uint8], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"noise has shape .* expected \(1, 16, 8, 8\)"):
        ask(pipeline, image, noise=torch.zeros(shape))


def test_zero_steps_are_refused(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        ask(pipeline, image, steps=0)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("point_segmentation", {"points": None}, "needs 1 to 5 points, but 0"),
        ("point_segmentation", {"points": []}, "needs 1 to 5 points, but 0"),
        ("point_segmentation", {"points": [(0.5, 0.5)] * 6}, "needs 1 to 5 points, but 6"),
        ("point_segmentation", {"points": [(0.5, 1.01)]}, "out of range"),
        ("point_segmentation", {"points": [(-0.1, 0.5)]}, "out of range"),
        ("point_segmentation", {"points": [(float("nan"), 0.5)]}, "out of range"),
        ("point_segmentation", {"points": [(0.1, 0.2, 0.3)]}, "out of range"),
        ("depth", {"points": POINTS}, "takes no points"),
        ("semantic_segmentation", {"category": None}, "needs a category"),
        ("semantic_segmentation", {"category": ""}, "needs a category"),
        ("depth", {"category": "person"}, "takes no category"),
    ],
)
def test_a_wrong_question_is_refused(
    pipeline: Pipeline, image: NDArray[np.uint8], task: str, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask(pipeline, image, task, **options)


def test_an_unknown_task_lists_those_of_the_model(image: NDArray[np.uint8]) -> None:
    two = Pipeline(make_model(), [task for task in known_tasks() if task.name in ("depth", "pose")])
    with pytest.raises(ValueError, match="unknown task 'normal'; this model knows depth, pose$"):
        two(image, task="normal")


def test_a_prompt_outside_the_bank_is_refused_by_name(image: NDArray[np.uint8]) -> None:
    model = make_model()
    model.bank.add(["", "[[image2depth]]", "[[image2semantic]] person"])
    model.bank.encoder = None
    without_text = Pipeline(model, known_tasks())
    ask(without_text, image, "semantic_segmentation")
    with pytest.raises(ValueError, match=r"no embedding of prompt '\[\[image2semantic\]\] zebra'"):
        ask(without_text, image, "semantic_segmentation", category="zebra")


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model at"):
        Pipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a model directory"):
        Pipeline.from_pretrained(tmp_path)


def test_a_picture_too_large_to_be_tiled_is_told_of_and_left_out(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    told: list[int] = []
    requests = [Request(np.zeros((1, 40_000, 3), np.uint8), "foreground"), Request(image, "foreground")]
    answers = pipeline.answer(requests, steps=1, tile=True, unreadable=lambda index, _: told.append(index))
    assert [index for index, _ in answers] == [1] and told == [0]
