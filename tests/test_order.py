"""The order of the stream: exact shares, epochs, parts of streams, no memory, whatever the position."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from diception.datasets.mixture import PositionSampler
from diception.datasets.order import BLOCK, SHUFFLED, STREAMS, Order, Shuffle, generator, largest_remainder

SLOTS = (350, 210, 140, 270, 30)


def test_shares_are_exact_in_every_block_and_in_every_stream_in_the_long_run() -> None:
    order = Order(SLOTS, 3)
    for block in (0, 1, 77, 10**9):
        turns = [order[block * BLOCK + slot] for slot in range(BLOCK)]
        assert Counter(turn.member for turn in turns) == dict(enumerate(SLOTS))
    counts = np.zeros((len(SLOTS), STREAMS), int)
    for position in range(STREAMS * BLOCK):
        turn = order[position]
        assert turn.stream_draw == counts[turn.member, turn.stream]
        counts[turn.member, turn.stream] += 1
        if position % 9973 == 0:  # never ahead or behind by more than its cards of a block
            ideal = np.array(SLOTS)[:, None] * position / (BLOCK * STREAMS)
            assert np.abs(counts - ideal).max() < BLOCK / STREAMS
    assert (counts == np.array(SLOTS)[:, None]).all()


def test_draws_count_up_by_one() -> None:
    order, drawn = Order(SLOTS, 0), {member: 7 * slots for member, slots in enumerate(SLOTS)}
    for position in range(7 * BLOCK, 9 * BLOCK):
        turn = order[position]
        assert turn.draw == drawn[turn.member]
        drawn[turn.member] += 1


@pytest.mark.parametrize("count", [1, 7, SHUFFLED, SHUFFLED + 1, 50_000])
def test_every_sample_once_per_epoch(count: int) -> None:
    order, shuffle = Order((BLOCK,), 5), Shuffle("a/depth", count, 5)
    epochs: dict[tuple[int, int], list[int]] = {}
    for position in range(2 * count + (STREAMS * 4 if count > SHUFFLED else 0)):
        turn = order[position]
        first, size, draw = shuffle.part(turn)
        epochs.setdefault((first, draw // size), []).append(shuffle(turn))
        assert first <= epochs[first, draw // size][-1] < first + size
    firsts = {first for first, _ in epochs}
    sizes = {first: shuffle.part(order[p])[1] for p in range(STREAMS) for first in [shuffle.part(order[p])[0]]}
    assert sum(sizes.values()) == count
    for first in firsts:
        for epoch in (0, 1):
            drawn = epochs[first, epoch]
            assert len(set(drawn)) == len(drawn) and (epoch > 0 or len(drawn) == sizes[first])
    if count > 1:
        one, two = ([epochs[first, epoch] for first in sorted(firsts)] for epoch in (0, 1))
        assert one != two


def test_large_parts_are_read_piece_by_piece() -> None:
    count = STREAMS * 3 * SHUFFLED
    order, shuffle = Order((BLOCK,), 0), Shuffle("a", count, 0)
    drawn = [shuffle(order[STREAMS * k]) for k in range(3 * SHUFFLED)]
    first, size, _ = shuffle.part(order[0])
    assert size == 3 * SHUFFLED and sorted(drawn) == list(range(first, first + size))
    for piece in range(3):
        own = drawn[piece * SHUFFLED : (piece + 1) * SHUFFLED]
        assert max(own) - min(own) == SHUFFLED - 1 and own != sorted(own)


def test_a_turn_handed_on_goes_to_the_next_of_the_epoch() -> None:
    order, shuffle = Order((BLOCK,), 0), Shuffle("a", 9, 0)
    assert [shuffle(order[2], ahead) for ahead in range(7)] == [shuffle(order[2 + k]) for k in range(7)]
    assert {shuffle(order[2], ahead) for ahead in range(9)} == set(range(9))


@pytest.mark.parametrize("nodes", [2, 4, 5, 8])
def test_every_node_reads_samples_of_its_own(nodes: int) -> None:
    order, shuffle = Order((BLOCK,), 1), Shuffle("a", 40_000, 1)
    read: list[set[int]] = []
    world = 2 * nodes
    for node in range(nodes):
        batches = [PositionSampler(5 * world, 0, 400, 2 * node + local, world, nodes) for local in (0, 1)]
        read.append({shuffle(order[position]) // 100 for sampler in batches for step in sampler for position in step})
    shared = sum(len(one) for one in read) - len(set().union(*read))
    assert all(len(one) > 300 / nodes for one in read) and shared <= (nodes if nodes != 5 else 40)


@pytest.mark.parametrize(("world", "nodes"), [(1, 1), (4, 2), (6, 3), (8, 8)])
def test_ranks_share_the_positions_out(world: int, nodes: int) -> None:
    taken = [list(PositionSampler(24, 2, 5, rank, world, nodes)) for rank in range(world)]
    assert sorted(p for batches in taken for batch in batches for p in batch) == list(range(48, 120))


def test_memory_does_not_grow_with_the_samples() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        order, shuffle = Order(SLOTS, 0), Shuffle(f"of {count}", count, 0)
        for position in range(0, 400_000, 199):
            assert 0 <= shuffle(order[position]) < count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    small, large = peak(5 * 10**3), peak(10**8)
    assert large < small + 20_000_000  # the permutations in use: at most 512 of 16 KB each


def test_largest_remainder_sums_and_is_near() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        weights = rng.dirichlet(np.ones(7))
        counts = largest_remainder(weights.tolist(), 1000)
        assert sum(counts) == 1000
        assert np.abs(np.array(counts) - weights * 1000).max() < 1
    assert largest_remainder([0.29, 0.71], 1000) == [290, 710]


def test_generators_do_not_overlap() -> None:
    keys = [(s, p, a, b) for s in (0, 1) for p in (0, 1) for a in (0, 1, 1 << 63) for b in (0, 1)]
    assert len({generator(*key).bytes(16) for key in keys}) == len(keys)
