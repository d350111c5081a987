"""Which sample has its turn at which position: arithmetic on (seed, position) alone; nothing is read or remembered."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BLOCK = 1000
"""Slots in which the proportions are exact; also the finest weight, 1 / 1000."""
STREAMS = 200
"""Position p belongs to logical stream p % 200. A divisor of BLOCK, and a multiple of 2, 4, 5, 8, 10, 20, 25 and 40."""
STEP = 123
"""Streams by which the cards move on from block to block; near the golden section of 200, so they spread evenly."""
SHUFFLED = 4096
"""So many neighbours in the shards are shuffled together. Fewer samples than that are shared by all streams."""
PATTERN, PERMUTATION, AUGMENT, ENCODE, NOISE = range(5)


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


@dataclass(frozen=True)
class Turn:
    """What a position draws."""

    member: int
    """Number of the mixture's member."""
    draw: int
    """How many positions of this member came before."""
    stream: int
    """Logical stream of the position."""
    stream_draw: int
    """How many positions of this member came before in this stream."""


class Order:
    """Deals the positions of every block to the members of a mixture, each its exact number of slots.

    A block's 1,000 slots are a row of cards, sorted by member. Card i of block b goes to stream (i + 123 b) % 200, so
    that every stream sees every member in proportion too: over 200 blocks, exactly. Which of a stream's five cards
    comes when is random.
    """

    def __init__(self, slots: Sequence[int], seed: int) -> None:
        """`slots`: of BLOCK positions, how many are each member's."""
        assert sum(slots) == BLOCK and BLOCK % STREAMS == 0
        self.slots, self.seed = tuple(slots), seed
        self.ends = np.cumsum(slots)
        self._block: tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None = None

    def __getitem__(self, position: int) -> Turn:
        block, slot = divmod(position, BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = (block, *self._deal(block))
        _, members, before, stream_before = self._block
        member, stream = int(members[slot]), position % STREAMS
        draw = block * self.slots[member] + int(before[slot])
        return Turn(member, draw, stream, self._stream_draws(member, stream, block) + int(stream_before[slot]))

    def _deal(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(BLOCK,) member of each slot, and how many of that member's came before: in the block, in the stream."""
        cards = (np.arange(STREAMS) - STEP * block) % STREAMS + np.arange(0, BLOCK, STREAMS)[:, None]
        cards = generator(self.seed, PATTERN, block).permuted(cards, axis=0)
        members = np.searchsorted(self.ends, cards, side="right")
        before, stream_before = np.zeros_like(members), np.zeros_like(members)
        for member in range(len(self.slots)):
            own = members == member
            before[own] = np.arange(self.slots[member])  # row by row: in the order of positions
            stream_before[own] = (np.cumsum(own, axis=0) - 1)[own]
        return members.ravel(), before.ravel(), stream_before.ravel()

    def _stream_draws(self, member: int, stream: int, block: int) -> int:
        """Cards of a member that a stream got in the blocks before."""
        rounds, rest = divmod(block, STREAMS)
        first, last = self.ends[member] - self.slots[member], self.ends[member]
        # Card i lies in this stream in that block c of a round for which (i + STEP * c) % STREAMS is the stream.
        blocks = (stream - np.arange(first, last)) * pow(STEP, -1, STREAMS) % STREAMS
        return rounds * self.slots[member] + int((blocks < rest).sum())

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_block": None}


@lru_cache(maxsize=1)
def _parts() -> tuple[int, ...]:
    """Part of the samples that each stream reads: streams that are alike modulo 2, 4, 8 or 40 have neighbouring parts.

    So the nodes of a cluster, each of which has the streams of one remainder, read different shards.
    """
    digits = [(s % 2, s // 2 % 2, s // 4 % 2, s // 8 % 5, s // 40) for s in range(STREAMS)]
    order = sorted(range(STREAMS), key=digits.__getitem__)
    return tuple(order.index(stream) for stream in range(STREAMS))


@dataclass(frozen=True)
class Shuffle:
    """The order in which a member's `count` samples are drawn; each once per epoch, of its stream where they are many.

    Up to 4,096 samples are shuffled as one set. More are split into a part per stream, each a run of neighbours, of
    which again up to 4,096 at a time are shuffled: a stream reads a few shards at a time, and no list of all samples
    is ever made.
    """

    name: str
    """Of the member: adding another does not reshuffle it."""
    count: int
    seed: int

    def part(self, turn: Turn) -> tuple[int, int, int]:
        """(first sample, number of samples, draw) of the run that a turn draws from."""
        if self.count <= SHUFFLED:
            return 0, self.count, turn.draw
        number = _parts()[turn.stream]
        first, last = number * self.count // STREAMS, (number + 1) * self.count // STREAMS
        return first, last - first, turn.stream_draw

    def elsewhere(self, turn: Turn) -> Turn:
        """The turn in the next stream, whose samples are no neighbours of its own, where there are many."""
        return replace(turn, stream=(turn.stream + 1) % STREAMS)

    def __call__(self, turn: Turn, ahead: int = 0) -> int:
        """Number in [0, count) of the sample of a turn; `ahead`: of the one so many places on in the same epoch.

        Behind the last of its own part those of the next stream follow, and so on.
        """
        while ahead >= self.part(turn)[1] and self.count > SHUFFLED:
            ahead, turn = ahead - self.part(turn)[1], self.elsewhere(turn)
        first, size, draw = self.part(turn)
        epoch, place = divmod(draw, size)
        place = (place + ahead) % size
        stream = turn.stream if self.count > SHUFFLED else 0
        key = zlib.crc32(self.name.encode()) | stream << 32
        order, ends = _chunks(self.seed, epoch, key, size)
        which = int(np.searchsorted(ends, place, side="right"))
        low, high = _bounds(int(order[which]), size)
        inner = _permutation(self.seed, epoch, key | (int(order[which]) + 1) << 40, high - low)
        return first + low + int(inner[place - int(ends[which]) + high - low])


def _bounds(chunk: int, size: int) -> tuple[int, int]:
    """First sample of a chunk of a run, and that of the next."""
    chunks = -(-size // SHUFFLED)
    return chunk * size // chunks, (chunk + 1) * size // chunks


@lru_cache(maxsize=512)
def _chunks(seed: int, epoch: int, key: int, size: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The chunks of a run of samples in the order of an epoch, and how many samples are drawn at the end of each."""
    order = _permutation(seed, epoch, key, -(-size // SHUFFLED))
    bounds = np.array([_bounds(chunk, size) for chunk in order.tolist()])
    return order, np.cumsum(bounds[:, 1] - bounds[:, 0])


@lru_cache(maxsize=512)
def _permutation(seed: int, epoch: int, key: int, count: int) -> NDArray[np.int32]:
    return generator(seed, PERMUTATION, epoch, key).permutation(np.arange(count, dtype=np.int32))
