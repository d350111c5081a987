"""The training stream: example number p, whatever the number of ranks and workers, as a pure function of (seed, p)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from diception.datasets.order import AUGMENT, BLOCK, ENCODE, NOISE, Order, Shuffle, Turn, generator, largest_remainder
from diception.datasets.sample import CorruptSample, Example, Reader, Sample, collate_training, encode, read_reduced
from diception.datasets.transforms import Augment, square
from diception.errors import FaultyData
from diception.tasks.base import Task

log = logging.getLogger(__name__)

ENOUGH = 1000
"""Before so many samples of a source are read, its share of corrupt ones is judged as if there were so many."""
WINDOWS = 50
"""Windows of a picture that are drawn until one serves; if none does, the last, of which nothing counts, is shown."""
MAX_UNSERVED = 1000
"""Samples in a row that cannot serve a task before the stream stops."""


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
    samples: Sequence[int] | NDArray[np.int64]
    """(n,) numbers of the source's samples that have the task's kind of annotation, in the order of the shards."""

    @property
    def name(self) -> str:
        return f"{self.source.name}/{self.task.name}"


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

    Positions come in blocks of 1,000 slots, each of which holds every (source, task) pair exactly in proportion
    (order.Order); a pair draws each of its samples once per epoch (order.Shuffle). A sample that turns out not to serve
    the task, or to be corrupt, hands its turn to the next of the shuffle and is counted. The state of the stream is the
    next position, nothing else.
    """

    collate = staticmethod(collate_training)
    """Makes a batch of the examples."""

    def __init__(
        self,
        sources: Sequence[Source],
        tasks: Mapping[str, Task],
        size: int,
        seed: int,
        augment: Augment | None = None,
        max_corrupt: float = 0.01,
    ) -> None:
        """`max_corrupt`: share of a source's samples that may be replaced before the stream stops with their list."""
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed is {seed}, allowed is 0 to 2**64 - 1")
        if not 0 <= max_corrupt <= 1:
            raise ValueError(f"max_corrupt is {max_corrupt}, allowed is 0 to 1 (a share)")
        self.pairs = make_pairs(sources, tasks)
        self.order = Order([pair.slots for pair in self.pairs], seed)
        self.size, self.seed, self.augment, self.max_corrupt = size, seed, augment or Augment(), max_corrupt
        self.faults: dict[str, dict[str, str]] = {}
        """Source -> sample -> what is wrong, as seen by this process."""
        self.unserved: dict[str, set[int]] = {pair.name: set() for pair in self.pairs}
        """Pair -> samples that cannot serve it, as seen by this process."""
        self._read = {source.name: np.zeros(len(source.reader), np.bool_) for source in sources}
        """Source -> (n,) which of its samples this process has read or tried to: a byte a sample."""

    def __getitem__(self, position: int) -> Example:
        if position < 0:
            raise IndexError(f"position {position} is negative, a stream starts at 0")
        pair, turn = self.locate(position)
        sample, task = self._draw(pair, turn), pair.task
        changed = self._changed(sample, task, generator(self.seed, AUGMENT, position))
        target = encode(task, changed, generator(self.seed, ENCODE, position))
        image = np.ascontiguousarray(changed.image.transpose(2, 0, 1)).astype(np.float32)
        image /= 255
        noise_seed = int(generator(self.seed, NOISE, position).integers(1 << 63))
        return Example(image, target, task.name, sample.key, noise_seed)

    def locate(self, position: int) -> tuple[Pair, Turn]:
        """The pair at a position, and which of its draws: nothing is read."""
        turn = self.order[position]
        return self.pairs[turn.member], turn

    def _changed(self, sample: Sample, task: Task, drawn: np.random.Generator) -> Sample:
        """The sample as it is shown; windows are drawn until one serves, for a whole picture has another scale."""
        augment = self.augment
        if task.follows_colors:
            augment = replace(augment, photometric=0.0)
        if not (task.mirrors or augment.turns):
            augment = replace(augment, hflip=0.0)
        in_windows = augment.windows > 0 and task.local
        for _ in range(WINDOWS if in_windows else 1):
            changed = augment(sample, self.size, drawn)
            if task.serves(changed.annotations[task.kind]):
                return changed
        # A crop has cut away everything the task needs, or a mirror image is sampled in other pixels.
        return changed if in_windows else square(sample, self.size)

    def _draw(self, pair: Pair, turn: Turn) -> Sample:
        """The pair's sample of this turn, or the next of its shuffle that can be read and serves.

        After a corrupt one it looks elsewhere, for its neighbours may lie in the same broken shard.
        """
        shuffle, skipped = Shuffle(pair.name, len(pair.samples), self.seed), self.unserved[pair.name]
        unserved, corrupt = 0, 0
        for ahead in range(shuffle.count):
            number = int(pair.samples[shuffle(turn, ahead)])
            if number not in skipped:
                try:
                    self._read[pair.source.name][number] = True
                    # Decoded no larger than a crop needs.
                    needed = self.augment.at_least(self.size)
                    sample = read_reduced(pair.source.reader, number, (pair.task.kind,), needed)
                except CorruptSample as error:
                    self._count_fault(pair.source, error)
                    corrupt += 1
                    turn = shuffle.elsewhere(turn)
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
        raise FaultyData(
            f"{pair.name}: {unserved + corrupt} samples in a row cannot serve {pair.task.name!r}, {corrupt} of them "
            "because they are corrupt"
        )

    def _count_fault(self, source: Source, error: CorruptSample) -> None:
        faults = self.faults.setdefault(source.name, {})
        name = f"{error.place}: {error.key}"
        if name not in faults:
            faults[name] = error.reason
            log.warning("corrupt sample replaced (%s): %s", source.name, error)
        # Samples and not reads on both sides: an epoch more makes no source better.
        read, total = int(self._read[source.name].sum()), len(source.reader)
        judged = min(total, max(read, ENOUGH))
        allowed = int(self.max_corrupt * judged)
        if len(faults) > allowed:
            listed = "\n".join(f"  {place}: {reason}" for place, reason in faults.items())
            raise FaultyData(
                f"source {source.name!r}: {len(faults)} corrupt among the {read} samples read of its {total}, at most "
                f"{allowed} ({self.max_corrupt:.1%} of {judged}) are replaced:\n{listed}"
            )


class PositionSampler(Sampler[list[int]]):
    """Batches of positions for one rank: step s covers [s * B, (s + 1) * B), of which every rank takes each world-th.

    The ranks of a node, which follow each other, take positions that are alike modulo the number of nodes, so that a
    node has logical streams of its own and reads shards of its own.
    """

    def __init__(self, global_batch: int, start: int, stop: int, rank: int = 0, world: int = 1, nodes: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}, allowed is 0 to {world - 1}")
        if nodes < 1 or world % nodes:
            raise ValueError(f"{world} ranks on {nodes} nodes, allowed is the same number of ranks on every node")
        if global_batch < 1 or global_batch % world:
            raise ValueError(f"global batch is {global_batch}, allowed are multiples of the {world} ranks")
        if not 0 <= start <= stop:
            raise ValueError(f"steps {start} to {stop} are not a range, allowed is 0 <= start <= stop")
        self.global_batch, self.start, self.stop = global_batch, start, stop
        node, local = divmod(rank, world // nodes)
        self.world, self.offset = world, node + nodes * local

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = step * self.global_batch
            yield list(range(first + self.offset, first + self.global_batch, self.world))
