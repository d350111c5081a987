"""What an adapter is worth: scores on images that it never saw, decoded with what those trained on have fitted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from diception.config import SamplingConfig
from diception.datasets.sample import Example
from diception.evaluation import HeldOut, Score, evaluate_baselines, predictions, score_of, stretched
from diception.model.diception import Diception
from diception.panel import Row, make_row
from diception.tasks import Task

Progress = Callable[[Iterable], Iterable]
SHOWN = 3
"""Best and worst images in a panel, of each so many."""


@dataclass
class Measured:
    """A score with what it is made of."""

    score: Score
    task: Task
    """With the decoder's fitted parameter."""
    values: list[float]
    """The headline metric of every image alone."""
    painted: list[NDArray]
    """(3, H, W) each."""


def measure(
    model: Diception, shown: HeldOut, held_out: HeldOut, sampling: SamplingConfig, progress: Progress = iter
) -> Measured:
    """Score on the held-out images, with the decoder's free parameter, if any, fitted on the images trained on."""
    task = held_out.task
    if task.fitted:
        painted, truths = zip(*predictions(model, shown, sampling), strict=True)
        task = shown.task.calibrated(list(painted), list(truths))
    whole, values, kept = task.evaluator(), [], []
    found = predictions(model, held_out, sampling)
    for _ in progress(range(len(held_out))):
        rgb, truth = next(found)
        kept.append(rgb)
        decoded, alone = task.decode(rgb), task.evaluator()
        for evaluator in (whole, alone):
            evaluator.update(decoded, truth)
        values.append(alone.compute()[alone.primary])
    return Measured(score_of(held_out, sampling, whole), task, values, kept)


def fair_baselines(shown: HeldOut, held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Baselines on the held-out images, decoded as favourably as the model: fitted on the targets trained on."""
    fair = copy.copy(held_out)
    if held_out.task.fitted:
        targets = [example.target for example in shown]
        mean = np.mean([stretched(target.rgb, targets[0].rgb) for target in targets], axis=0)
        means = [stretched(mean, target.rgb) for target in targets]
        fair.task = shown.task.calibrated(means, [target.truth for target in targets])
    return evaluate_baselines(fair)


def best_and_worst(measured: Measured, held_out: HeldOut) -> list[Row]:
    """Rows of a panel: the images that come out best, then those that come out worst, each with its metric."""
    order = np.argsort(measured.values) if measured.score.higher_is_better else np.argsort(measured.values)[::-1]
    order = [int(number) for number in order if np.isfinite(measured.values[number])]
    worst = order[: min(SHOWN, len(order) // 2)]
    best = order[::-1][: min(SHOWN, len(order) - len(worst))]
    examples: dict[int, Example] = {n: e for n, e in enumerate(held_out) if n in {*best, *worst}}
    return [
        make_row(
            measured.task, examples[n], measured.painted[n], f"{label}: {examples[n].key}   {measured.values[n]:.3f}"
        )
        for label, numbers in (("best", best), ("worst", worst))
        for n in numbers
    ]


@torch.no_grad()
def paintings(model: Diception, asked: Iterable[HeldOut], sampling: SamplingConfig, count: int) -> list[bytes]:
    """The first `count` pictures that the model paints for each, bit for bit."""
    return [rgb.tobytes() for held_out in asked for rgb, _ in islice(predictions(model, held_out, sampling, 1), count)]
