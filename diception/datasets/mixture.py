"""The training stream: example number p, whatever the number of ranks and workers, as a pure function of (seed, p)."""

from __future__ import annotations

import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from diception.datasets.sample import CorruptSample, Example, Reader, Sample
from diception.datasets.transforms import Augment, square
from diception.tasks.base import Task

log = logging.getLogger(__name__)

BLOCK = 1000
"""Slots in which the proportions are exact; also the finest weight, 1 / 1000."""
MAX_CORRUPT = 0.01
"""Share of a source's samples that may be corrupt before the stream stops."""
MAX_UNSERVED = 1000
"""Samples in a row that cannot serve a task before the stream stops."""
PATTERN, PERMUTATION, AUGMENT, ENCODE, NOISE = range(5)


@dataclass(frozen=True, eq=False)
class Source:
    """A set of samples, its share of the stream, and how that share is split among tasks."""

    name: str
    reader: Reader
    weight: float
    tasks: Mapping[str, float]
    """Task name -> share of this source; the shares sum to 1."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One source under one task: the unit of which the mixture is made."""

    source: Source
    task: Task
    slots: int
    """Of every BLOCK positions, how many are this pair's."""
    samples: NDArray[np.int64]
    """(n,) numbers of the source's samples that have the task's kind of annotation."""

    @property
    def name(self) -> str:
        return f"{self.source.name}/{self.task.name}"


def generator(seed: int, purpose: int, a: int, b: int = 0) -> np.random.Generator:
    """Counter-based: key (seed, purpose), counter starts at (0, 0, a, b), so no two streams overlap."""
    return np.random.Generator(np.random.Philox(key=seed | purpose << 64, counter=a << 128 | b << 192))


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to `total` and are nearest to weights * total; the weights sum to 1."""
    shares = [weight * total for weight in weights]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _check_weights(what: str, weights: Mapping[str, float]) -> None:
    total = sum(weights.values())
    if any(weight < 0 for weight in weights.values()) or not math.isclose(total, 1, abs_tol=1e-6):
        raise ValueError(f"{what} must be 0 or more and sum to 1, they sum to {total:.6g}: {dict(weights)}")


def make_pairs(sources: Sequence[Source], tasks: Mapping[str, Task]) -> list[Pair]:
    """All (source, task) pairs of positive weight; ValueError where weights, names or kinds do not fit."""
    weights = {source.name: source.weight for source in sources}
    if len(weights) != len(sources):
        raise ValueError(f"source names repeat: {[source.name for source in sources]}")
    _check_weights("source weights", weights)
    for source in sources:
        _check_weights(f"task weights of source {source.name!r}", source.tasks)
    drawn = [(s, name, s.weight * w) for s in sources for name, w in s.tasks.items() if s.weight * w > 0]
    pairs = []
    for (source, name, weight), slots in zip(drawn, largest_remainder([d[2] for d in drawn], BLOCK), strict=True):
        if name not in tasks:
            raise ValueError(f"source {source.name!r} names task {name!r}, known are {sorted(tasks)}")
        if slots == 0:
            raise ValueError(f"{source.name}/{name} has weight {weight:.3g}, allowed are 0 and 1/{BLOCK} or more")
        samples = source.reader.serving(tasks[name].kind)
        if len(samples) == 0:
            raise ValueError(f"source {source.name!r} has no {tasks[name].kind!r} annotation, which {name!r} needs")
        pairs.append(Pair(source, tasks[name], slots, samples))
    return pairs


class Stream(Dataset[Example]):
    """`stream[position]` is one encoded example.

    Positions come in blocks of 1,000 slots. Every block holds each (source, task) pair exactly in proportion, in an
    order shuffled per block. The k-th slot of a pair takes sample k % n of the pair's shuffle number k // n: each
    sample once per epoch of the pair. A sample that turns out not to serve the task, or to be corrupt, hands its turn
    to the next of the shuffle and is counted. The state of the stream is the next position, nothing else.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tasks: Mapping[str, Task],
        size: int,
        seed: int,
        augment: Augment | None = None,
    ) -> None:
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed is {seed}, allowed is 0 to 2**64 - 1")
        self.pairs = make_pairs(sources, tasks)
        self.size, self.seed, self.augment = size, seed, augment or Augment()
        self.faults: dict[str, dict[str, str]] = {}
        """Source -> sample -> what is wrong, as seen by this process."""
        self.unserved: dict[str, set[int]] = {pair.name: set() for pair in self.pairs}
        """Pair -> samples that cannot serve it, as seen by this process."""
        self._reads: Counter[str] = Counter()
        self._pattern: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._shuffles: dict[str, tuple[int, NDArray[np.int64]]] = {}

    def __getitem__(self, position: int) -> Example:
        if position < 0:
            raise IndexError(f"position {position} is negative, a stream starts at 0")
        pair, draw = self.locate(position)
        sample, task = self._draw(pair, draw), pair.task
        changed = self.augment(sample, self.size, generator(self.seed, AUGMENT, position))
        if self.augment.scale is not None and not task.serves(changed.annotations[task.kind]):
            # The crop has cut away everything the task needs.
            changed = square(sample, self.size)
        target = task.encode(changed.annotations[task.kind], generator(self.seed, ENCODE, position))
        image = np.ascontiguousarray(changed.image.transpose(2, 0, 1)).astype(np.float32)
        image /= 255
        noise_seed = int(generator(self.seed, NOISE, position).integers(1 << 63))
        return Example(image, target, task.name, sample.key, noise_seed)

    def locate(self, position: int) -> tuple[Pair, int]:
        """The pair at a position, and how many of its slots came before: nothing is read."""
        block, slot = divmod(position, BLOCK)
        if self._pattern is None or self._pattern[0] != block:
            self._pattern = (block, *self._make_pattern(block))
        _, order, ordinal = self._pattern
        pair = self.pairs[order[slot]]
        return pair, block * pair.slots + int(ordinal[slot])

    def _make_pattern(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(BLOCK,) pair of each slot, and which of that pair's slots in this block it is."""
        order = np.repeat(np.arange(len(self.pairs)), [pair.slots for pair in self.pairs])
        generator(self.seed, PATTERN, block).shuffle(order)
        ordinal = np.empty_like(order)
        for number, pair in enumerate(self.pairs):
            ordinal[order == number] = np.arange(pair.slots)
        return order, ordinal

    def _shuffle(self, pair: Pair, epoch: int) -> NDArray[np.int64]:
        known = self._shuffles.get(pair.name)
        if known is None or known[0] != epoch:
            # Keyed on the pair's name, so that adding a source does not reshuffle the others.
            number = zlib.crc32(pair.name.encode())
            known = (epoch, generator(self.seed, PERMUTATION, epoch, number).permutation(pair.samples))
            self._shuffles[pair.name] = known
        return known[1]

    def _draw(self, pair: Pair, draw: int) -> Sample:
        """The pair's sample of this draw, or the next of its shuffle that can be read and serves."""
        epoch, first = divmod(draw, len(pair.samples))
        shuffled, skipped = self._shuffle(pair, epoch), self.unserved[pair.name]
        unserved = 0
        for step in range(len(shuffled)):
            number = int(shuffled[(first + step) % len(shuffled)])
            if number not in skipped:
                try:
                    self._reads[pair.source.name] += 1
                    sample = pair.source.reader.read(number, (pair.task.kind,))
                except CorruptSample as error:
                    self._count_fault(pair.source, error)
                    continue
                # At the size of the model: a small object can vanish there.
                annotation = sample.annotations[pair.task.kind]
                if annotation.size != (self.size, self.size):
                    annotation = annotation.resize(self.size, self.size)
                if pair.task.serves(annotation):
                    return sample
                skipped.add(number)
            unserved += 1
            if unserved == MAX_UNSERVED:
                break
        raise RuntimeError(f"{pair.name}: {unserved} samples in a row cannot serve {pair.task.name!r}")

    def _count_fault(self, source: Source, error: CorruptSample) -> None:
        faults = self.faults.setdefault(source.name, {})
        name = f"{error.place}: {error.key}"
        if name not in faults:
            faults[name] = error.reason
            log.warning("corrupt sample replaced (%s): %s", source.name, error)
        # Of the whole source, or of what was read where that is enough to judge by.
        judged = min(len(source.reader), max(self._reads[source.name], 1000))
        if len(faults) > MAX_CORRUPT * judged:
            listed = "\n".join(f"  {place}: {reason}" for place, reason in faults.items())
            raise RuntimeError(
                f"source {source.name!r}: {len(faults)} corrupt of {judged} samples, "
                f"at most {MAX_CORRUPT:.0%} are replaced:\n{listed}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pattern": None, "_shuffles": {}}


class PositionSampler(Sampler[list[int]]):
    """Batches of positions for one rank: step s covers [s * B, (s + 1) * B), of which rank r takes r, r + world, ..."""

    def __init__(self, global_batch: int, start: int, stop: int, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}, allowed is 0 to {world - 1}")
        if global_batch < 1 or global_batch % world:
            raise ValueError(f"global batch is {global_batch}, allowed are multiples of the {world} ranks")
        if not 0 <= start <= stop:
            raise ValueError(f"steps {start} to {stop} are not a range, allowed is 0 <= start <= stop")
        self.global_batch, self.start, self.stop = global_batch, start, stop
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = step * self.global_batch
            yield list(range(first + self.rank, first + self.global_batch, self.world))
