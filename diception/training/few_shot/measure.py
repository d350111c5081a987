"""What an adapter is worth: scores on images that it never saw, decoded with what those trained on have fitted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from diception.config import SamplingConfig
from diception.evaluation import HeldOut, Score, evaluate_baselines, predictions, score_of, stretched
from diception.model.diception import Diception
from diception.panel import Row, make_row
from diception.tasks import Task

T = TypeVar("T")
Progress = Callable[[Iterable], Iterable]
FITTED = 16
"""Images trained on to which a decoder is fitted: a threshold needs no more, and large ones take long."""
SHOWN = 3
"""Best and worst images in a panel, of each so many."""


@dataclass
class Measured:
    """A score with what it is made of."""

    score: Score
    task: Task
    """With the decoder's fitted parameter."""
    values: list[float]
    """The headline metric of every image alone, in their order."""


def measure(
    model: Diception, shown: HeldOut, held_out: HeldOut, sampling: SamplingConfig, progress: Progress = iter
) -> Measured:
    """Score on the held-out images, with the decoder's free parameter, if any, fitted on some of those trained on."""
    task = held_out.task
    if task.fitted:
        some = fitting(shown)
        task = shown.task.calibrated(_counted(predictions(model, some, sampling), len(some), progress))
    whole, values = task.evaluator(), []
    for rgb, truth in _counted(predictions(model, held_out, sampling), len(held_out), progress):
        decoded, alone = task.decode(rgb), task.evaluator()
        for evaluator in (whole, alone):
            evaluator.update(decoded, truth)
        values.append(alone.compute()[alone.primary])
    return Measured(score_of(held_out, sampling, whole), task, values)


def fitting(shown: HeldOut) -> HeldOut:
    """Those to which a decoder is fitted, evenly spread."""
    return shown.only(np.linspace(0, len(shown) - 1, min(FITTED, len(shown))).round().astype(int).tolist())


def _counted(found: Iterator[T], count: int, progress: Progress) -> Iterator[T]:
    """The same with progress."""
    return (next(found) for _ in progress(range(count)))


def fair_baselines(shown: HeldOut, held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Baselines on the held-out images, decoded as favourably as the model: fitted on the targets trained on."""
    fair = copy.copy(held_out)
    if held_out.task.fitted:
        some = fitting(shown)
        total = next(iter(some)).target.rgb * np.float64(0)
        for example in some:
            total += stretched(example.target.rgb, total)
        targets, mean = (example.target for example in some), (total / len(some)).astype(np.float32)
        fair.task = shown.task.calibrated((stretched(mean, target.rgb), target.truth) for target in targets)
    return evaluate_baselines(fair)


def best_and_worst(model: Diception, measured: Measured, held_out: HeldOut, sampling: SamplingConfig) -> list[Row]:
    """Rows of a panel: the images that come out best, then those that come out worst, each with its metric.

    They are predicted again: to keep all pictures would take memory that grows with the images.
    """
    order = np.argsort(measured.values) if measured.score.higher_is_better else np.argsort(measured.values)[::-1]
    order = [int(number) for number in order if np.isfinite(measured.values[number])]
    worst = order[: min(SHOWN, len(order) // 2)]
    best = order[::-1][: min(SHOWN, len(order) - len(worst))]
    labels = [*(("best", number) for number in best), *(("worst", number) for number in worst)]
    chosen = held_out.only([number for _, number in labels])
    painted = predictions(model, chosen, sampling)
    return [
        make_row(measured.task, example, rgb, f"{label}: {example.key}   {measured.values[number]:.3f}")
        for (label, number), example, (rgb, _) in zip(labels, chosen, painted, strict=True)
    ]


@torch.no_grad()
def paintings(model: Diception, asked: Iterable[HeldOut], sampling: SamplingConfig, count: int) -> list[bytes]:
    """The first `count` pictures that the model paints for each, bit for bit."""
    return [rgb.tobytes() for held_out in asked for rgb, _ in islice(predictions(model, held_out, sampling, 1), count)]
