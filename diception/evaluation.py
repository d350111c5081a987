"""Evaluation: the held-out samples of a task, the model's predictions on them, and metrics under a named protocol."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tqdm import tqdm

from diception.annotations import Annotation
from diception.annotations.base import bilinear
from diception.config import SamplingConfig
from diception.datasets.sample import Example, Reader, Sample, collate, encode
from diception.datasets.transforms import at_own_size, square
from diception.inference import generate, to_uint8
from diception.tasks import Task
from diception.tasks.base import Evaluator

if TYPE_CHECKING:
    from diception.model.diception import Diception


@dataclass
class Score:
    """The numbers of one task under one protocol, for the model and for predictions that ignore the image."""

    task: str
    protocol: str
    primary: str
    higher_is_better: bool
    count: int
    size: int
    steps: int
    guidance_scale: float
    seed: int
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    zoom: float = 0.0
    """Images were predicted in windows at so many times their own size, and measured so; 0: squashed to `size`."""
    turns: bool = False
    """The mean of eight turned and mirrored views of an image counted."""

    @property
    def value(self) -> float:
        """The headline metric."""
        return self.metrics[self.primary]

    def as_dict(self) -> dict:
        """All fields, for a JSON file, which has no nan: what was not measured is None."""
        fields = dataclasses.asdict(self)
        fields["metrics"] = _without_nan(self.metrics)
        fields["baselines"] = {name: _without_nan(metrics) for name, metrics in self.baselines.items()}
        return fields


def _without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


class HeldOut:
    """The fixed samples on which one task is evaluated: the first `count` that serve it, without augmentation.

    Points and categories are drawn once, keyed on (seed, index), so that every model answers the same questions.
    """

    def __init__(
        self, task: Task, reader: Reader, count: int, size: int, seed: int = 0, name: str = "", zoom: float = 0.0
    ):
        """Opens the samples.

        Args:
            task: what is asked.
            reader: has the samples.
            count: of samples, at most.
            size: side that images are squashed to.
            seed: fixes points, categories and noise.
            name: in logs; the task's by default.
            zoom: images keep nearly so many times their own size, with sides of at least `size`; 0: they are squashed.

        Raises:
            ValueError: a seed that is no 63-bit number from 0 on.
        """
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; it must be from 0 to 2^63 - 1")
        self.task, self.reader, self.size, self.seed = task.measured(), reader, size, seed
        self.name, self.zoom = name or task.name, zoom
        self.indices = self._serving(count)

    def share(self, rank: int, ranks: int) -> tuple[HeldOut, int]:
        """The samples of one rank, and how many of them are its own.

        The ranks' own samples are disjoint and together everything. Behind them a rank may have one more, so that all
        have as many: a model in pieces wants the same calls on every rank.
        """
        share, own = copy.copy(self), self.indices[rank::ranks]
        share.indices = own + self.indices[: math.ceil(len(self) / ranks) - len(own)]
        return share, len(own)

    def only(self, numbers: Sequence[int]) -> HeldOut:
        """The samples of these numbers, counted from 0, in this order."""
        chosen = copy.copy(self)
        chosen.indices = [self.indices[number] for number in numbers]
        return chosen

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Example]:
        for index in self.indices:
            sample = self._sample(index)
            generator = np.random.Generator(np.random.Philox(key=[self.seed, index]))
            target = encode(self.task, sample, generator)
            image = sample.image.transpose(2, 0, 1).astype(np.float32) / 255
            noise_seed = int(generator.integers(2**62))
            yield Example(image=image, target=target, task=self.task.name, key=sample.key, seed=noise_seed)

    def _serving(self, count: int) -> list[int]:
        found: list[int] = []
        for index in self.reader.serving(self.task.kind).tolist():
            if len(found) == count:
                break
            if self.task.serves(self._sample(index).annotations[self.task.kind]):
                found.append(index)
        return found

    def _sample(self, index: int) -> Sample:
        sample = self.reader.read(index, [self.task.kind])
        return at_own_size(sample, self.size, self.zoom) if self.zoom else square(sample, self.size)


@torch.no_grad()
def predictions(
    model: Diception, held_out: HeldOut, sampling: SamplingConfig, batch_size: int = 16
) -> Iterator[tuple[NDArray, Annotation]]:
    """What the model paints, (3, H, W) in [0, 1], and the truth, for every held-out sample."""
    examples, batch_size = iter(held_out), 1 if held_out.zoom else batch_size
    while chunk := list(itertools.islice(examples, batch_size)):
        batch = collate(chunk)
        for rgb, truth in zip(generate(model, batch.to(model.device), sampling), batch.truths, strict=True):
            yield rgb.cpu().numpy(), truth


def evaluate(
    model: Diception,
    held_out: HeldOut,
    sampling: SamplingConfig,
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Score:
    """Runs the model on a task's held-out samples and scores the decoded annotations under its main protocol.

    Scores are merged over all ranks.

    Raises:
        ValueError: no sample serves the task.
    """
    return evaluate_protocols(model, held_out, sampling, batch_size, progress)[0]


def evaluate_protocols(
    model: Diception,
    held_out: HeldOut,
    sampling: SamplingConfig,
    batch_size: int = 16,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Score]:
    """The same under all protocols of the task, the main one first."""
    if not len(held_out):
        raise ValueError(f"no sample of the given data serves task {held_out.task.name!r}")
    evaluators, (share, own) = held_out.task.evaluators(), held_out.share(*world())
    painted = predictions(model, share, sampling, batch_size)
    for number in progress(range(len(share))):
        rgb, truth = next(painted)
        if number >= own:
            continue
        found = held_out.task.decode(rgb)
        for evaluator in evaluators:
            evaluator.update(found, truth)
    return [score_of(held_out, sampling, evaluator) for evaluator in map(_merged, evaluators)]


def score_of(held_out: HeldOut, sampling: SamplingConfig, evaluator: Evaluator) -> Score:
    """The score of an evaluator that has seen all held-out samples."""
    return Score(
        task=held_out.task.name,
        protocol=evaluator.protocol,
        primary=evaluator.primary,
        higher_is_better=evaluator.higher_is_better,
        count=len(held_out),
        size=held_out.size,
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        seed=held_out.seed,
        metrics=evaluator.compute(),
        zoom=held_out.zoom,
        turns=sampling.turns,
    )


def evaluate_baselines(held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Scores what a model must beat, under the task's main protocol; see `baselines_of_protocols`."""
    return baselines_of_protocols(held_out)[0]


def baselines_of_protocols(held_out: HeldOut) -> list[dict[str, dict[str, float]]]:
    """Under each protocol: the task's guesses that ignore the image, and classical methods where it has any.

    The mean is taken per prompt and leaves the sample itself out; with one sample it is grey. Samples of other sizes
    than the first are stretched to it for the mean, and the mean to them.
    """
    sums: dict[str, NDArray] = {}
    counts: dict[str, int] = {}
    for example in held_out:
        prompt, rgb = example.target.prompt, example.target.rgb.astype(np.float64)
        sums[prompt] = stretched(rgb, sums[prompt]) + sums[prompt] if prompt in sums else rgb
        counts[prompt] = counts.get(prompt, 0) + 1
    evaluators: dict[str, list[Evaluator]] = {}
    for example in held_out:
        prompt, rgb = example.target.prompt, example.target.rgb
        others = counts[prompt] - 1
        total = sums[prompt]
        mean = stretched(total - stretched(rgb, total), rgb) / others if others else np.full_like(rgb, 0.5)
        guesses = held_out.task.baselines(mean.astype(np.float32), example.target)
        guesses |= held_out.task.references(to_uint8(example.image))
        for name, guess in guesses.items():
            for evaluator in evaluators.setdefault(name, held_out.task.evaluators()):
                evaluator.update(guess, example.target.truth)
    protocols = range(len(held_out.task.evaluators()))
    return [{name: own[index].compute() for name, own in evaluators.items()} for index in protocols]


def stretched(rgb: NDArray, like: NDArray) -> NDArray:
    """A painting (3, H, W) at the size of another; itself where it has it."""
    return rgb if rgb.shape == like.shape else bilinear(rgb, *like.shape[1:])


def world() -> tuple[int, int]:
    """(rank, number of ranks) of this process; (0, 1) outside a distributed run."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _merged(evaluator: Evaluator) -> Evaluator:
    if world()[1] == 1:
        return evaluator
    everyone: list[Evaluator] = [evaluator] * world()[1]
    dist.all_gather_object(everyone, evaluator)
    for other in everyone[1:]:
        everyone[0].merge(other)
    return everyone[0]


def evaluate_tasks(
    model: Diception,
    tasks: Iterable[Task],
    reader: Reader,
    samplings: Iterable[SamplingConfig],
    count: int,
    size: int,
    seed: int = 0,
    batch_size: int = 16,
    baselines: bool = True,
) -> list[Score]:
    """Scores of every task that the data serves at every sampling, with a progress bar, beside the baselines.

    Where the samplings have windows, all the same ones, images keep their own size times their zoom.
    """
    tasks, samplings = [variant for task in tasks for variant in task.variants()], list(samplings)
    scores: list[Score] = []
    for task in tasks:
        held_out = HeldOut(task, reader, count, size, seed, zoom=samplings[0].zoom if samplings[0].window else 0.0)
        if not len(held_out):
            continue
        guesses = baselines_of_protocols(held_out) if baselines else itertools.repeat({})
        for sampling in samplings:
            label = f"{task.name}, {sampling.steps} step{'s' * (sampling.steps > 1)}"
            bar = partial(tqdm, desc=label, unit="image", leave=False, disable=world()[0] > 0)
            found = evaluate_protocols(model, held_out, sampling, batch_size, bar)
            scores += [dataclasses.replace(s, baselines=g) for s, g in zip(found, guesses, strict=False)]
    return scores
