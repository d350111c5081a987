"""The stream: exact proportions, every sample once an epoch, and the same examples on any ranks and workers."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from readers import TASKS, Broken, Virtual, random_sample
from torch.utils.data import DataLoader

from diception.annotations import DepthMap, InstanceMasks, RGBImage
from diception.datasets.mixture import PositionSampler, Source, Stream
from diception.datasets.order import BLOCK
from diception.datasets.sample import Batch, Example, MemoryReader, Sample, collate
from diception.datasets.shards import ShardReader
from diception.datasets.transforms import Augment
from diception.datasets.writer import ShardWriter, write_samples
from diception.tasks import get_task, task_for_kind

SHARES = {"depth": 0.5, "point_segmentation": 0.3, "entity_segmentation": 0.2}
AUGMENT = Augment(hflip=0.5, scale=(0.4, 1.0), photometric=0.1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    write_samples(map(random_sample, range(23)), ShardWriter(folder, 10))
    return str(folder / "*.tar")


def make_stream(shards: str, seed: int = 3, **changes) -> Stream:
    few = MemoryReader([random_sample(i) for i in range(100, 107)])
    sources = [
        Source("shards", ShardReader(shards), 0.7, SHARES),
        Source("few", few, 0.3, {"normal": 0.9, "depth": 0.1}),
    ]
    return Stream(sources, TASKS, **{"size": 32, "seed": seed, "augment": AUGMENT, **changes})


def content(image: np.ndarray, target: np.ndarray, points: np.ndarray, seed: int, task: str, key: str) -> tuple:
    return image.tobytes(), target.tobytes(), points.tobytes(), seed, task, key


def of_example(e: Example) -> tuple:
    return content(e.image, e.target.rgb, e.target.points, e.seed, e.task, e.key)


def of_batch(b: Batch) -> list[tuple]:
    assert b.target is not None
    columns = zip(b.image.numpy(), b.target.numpy(), b.points.numpy(), b.seeds.tolist(), b.tasks, b.keys, strict=True)
    return [content(*column) for column in columns]


def loaded(stream: Stream, rank: int, world: int, workers: int, start: int = 0, stop: int = 6) -> list[list[tuple]]:
    sampler = PositionSampler(8, start, stop, rank, world)
    loader = DataLoader(stream, batch_sampler=sampler, num_workers=workers, collate_fn=collate)
    return [of_batch(batch) for batch in loader]


def test_the_same_examples_on_any_ranks_and_workers(shards: str) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    alone = loaded(make_stream(shards), 0, 1, 0)
    torch.manual_seed(1)
    np.random.seed(1)
    ranks = [loaded(make_stream(shards), rank, 2, 2) for rank in (0, 1)]
    for step, batch in enumerate(alone):
        assert batch[0::2] == ranks[0][step]
        assert batch[1::2] == ranks[1][step]
    many = [loaded(make_stream(shards), rank, 4, 3) for rank in range(4)]
    for step, batch in enumerate(alone):
        assert sorted(batch) == sorted(one for rank in many for one in rank[step])


def test_a_restart_anywhere_goes_on_the_same(shards: str) -> None:
    whole = loaded(make_stream(shards), 0, 1, 0)
    for start in (1, 4):
        assert loaded(make_stream(shards), 0, 1, 0, start) == whole[start:]
    used = make_stream(shards)
    for position in (999, 1000, 5, 70_001, 5):
        used[position]
    fresh = pickle.loads(pickle.dumps(make_stream(shards)))
    for position in (999, 1000, 70_001, 5, 123_456_789):
        assert of_example(used[position]) == of_example(fresh[position])


def test_seeds_differ_by_position_and_by_stream_seed(shards: str) -> None:
    first, second = make_stream(shards), make_stream(shards, seed=4)
    seeds = [first[position].seed for position in range(40)]
    assert len(set(seeds)) == 40 and all(0 <= seed < 1 << 63 for seed in seeds)
    assert not set(seeds) & {second[position].seed for position in range(40)}
    order = [[s.locate(position)[0].name for position in range(BLOCK)] for s in (first, second)]
    assert order[0] != order[1]


def test_proportions_are_exact_in_every_block(shards: str) -> None:
    stream = make_stream(shards)
    wanted = {
        "shards/depth": 350,
        "shards/point_segmentation": 210,
        "shards/entity_segmentation": 140,
        "few/normal": 270,
        "few/depth": 30,
    }
    orders = []
    for block in (0, 1, 77):
        names = [stream.locate(position)[0].name for position in range(block * BLOCK, (block + 1) * BLOCK)]
        assert Counter(names) == wanted
        orders.append(names)
    assert orders[0] != orders[1] != orders[2]


def test_every_sample_once_per_epoch_of_its_pair(shards: str) -> None:
    stream = make_stream(shards, augment=None)
    seen: dict[str, list[str]] = {pair.name: [] for pair in stream.pairs}
    for position in range(2 * BLOCK):
        pair, turn = stream.locate(position)
        assert turn.draw == len(seen[pair.name])
        seen[pair.name].append(stream._draw(pair, turn).key)
    for pair in stream.pairs:
        n, keys = len(pair.samples), seen[pair.name]
        epochs = [keys[i : i + n] for i in range(0, len(keys) - n + 1, n)]
        assert len(epochs) >= 2
        for epoch in epochs:
            assert len(set(epoch)) == n
        assert epochs[0] != epochs[1]


def test_samples_that_cannot_serve_are_passed_over() -> None:
    reader = MemoryReader([random_sample(i, objects=i % 2) for i in range(20)])
    stream = Stream([Source("a", reader, 1.0, {"entity_segmentation": 1.0})], TASKS, 32, 0)
    keys = Counter(stream[position].key for position in range(20))
    assert set(keys) <= {f"s{i:04d}" for i in range(1, 20, 2)}
    assert stream.unserved["a/entity_segmentation"] <= set(range(0, 20, 2))
    nothing = MemoryReader([random_sample(i, objects=0) for i in range(5)])
    with pytest.raises(RuntimeError, match=r"5 samples in a row cannot serve 'entity_segmentation', 0 of them"):
        Stream([Source("a", nothing, 1.0, {"entity_segmentation": 1.0})], TASKS, 32, 0)[0]
    broken = Source("a", Broken(6, set(range(6))), 1.0, {"depth": 1.0})
    with pytest.raises(
        RuntimeError, match="6 samples in a row cannot serve 'depth', 6 of them because they are corrupt"
    ):
        Stream([broken], TASKS, 32, 0, max_corrupt=1.0)[0]


def test_an_object_too_small_for_the_model_does_not_serve() -> None:
    small, large = random_sample(0, objects=1, size=200), random_sample(1, objects=1, size=200)
    dot = np.zeros((1, 200, 200), bool)
    dot[0, 0, 0] = True
    small.annotations["instances"] = InstanceMasks(dot, ("cup",), None)
    source = Source("a", MemoryReader([small, large]), 1.0, {"entity_segmentation": 1.0})
    stream = Stream([source], TASKS, 32, 0, AUGMENT)
    assert {stream[position].key for position in range(6)} == {"s0001"}


def test_a_crop_without_the_object_falls_back_to_the_whole_image() -> None:
    sample = random_sample(0, objects=1, size=64)
    sample.annotations["instances"] = InstanceMasks(np.zeros((1, 64, 64), bool), ("cup",), None)
    sample.annotations["instances"].masks[0, :12, :12] = True
    source = Source("a", MemoryReader([sample]), 1.0, {"entity_segmentation": 1.0})
    stream = Stream([source], TASKS, 64, 0, Augment(scale=(0.1, 0.2)))
    for position in range(20):
        assert stream[position].target.rgb.max() > 0


def test_an_image_is_not_recoloured_where_its_target_follows_its_colours() -> None:
    image, depth = np.full((40, 40, 3), 90, np.uint8), DepthMap(np.linspace(1, 2, 1600).reshape(40, 40))
    sample = Sample("s", image, {"image": RGBImage(image.transpose(2, 0, 1) / 255), "depth": depth})
    tasks = {"relight": task_for_kind("image", "relight"), "depth": get_task("depth")}
    source = Source("a", MemoryReader([sample]), 1.0, {"relight": 0.5, "depth": 0.5})
    stream = Stream([source], tasks, 32, 0, Augment(photometric=0.5))
    for example in (stream[position] for position in range(20)):
        changed = float(np.abs(example.image * 255 - 90).max())
        assert changed < 1e-3 if example.task == "relight" else changed > 1e-3


def test_wrong_mixtures_are_refused() -> None:
    reader = MemoryReader([random_sample(0)])
    depth = {"depth": 1.0}

    def stream(*sources: Source) -> Stream:
        return Stream(sources, TASKS, 32, 0)

    with pytest.raises(ValueError, match=r"sum to 1, they sum to 0\.9"):
        stream(Source("a", reader, 0.4, depth), Source("b", reader, 0.5, depth))
    with pytest.raises(ValueError, match=r"'a' must be .* they sum to 1\.2"):
        stream(Source("a", reader, 1.0, {"depth": 0.7, "normal": 0.5}))
    with pytest.raises(ValueError, match="0 or more"):
        stream(Source("a", reader, 1.5, depth), Source("b", reader, -0.5, depth))
    with pytest.raises(ValueError, match="repeat"):
        stream(Source("a", reader, 0.5, depth), Source("a", reader, 0.5, depth))
    with pytest.raises(ValueError, match="task 'deptg', known are"):
        stream(Source("a", reader, 1.0, {"deptg": 1.0}))
    with pytest.raises(ValueError, match="allowed are 0 and 1/1000"):
        stream(Source("a", reader, 0.9999, depth), Source("b", reader, 0.0001, depth))
    with pytest.raises(ValueError, match="no 'depth' annotation"):
        stream(Source("a", MemoryReader([Sample("k", random_sample(0).image)]), 1.0, depth))
    with pytest.raises(ValueError, match="seed is -1"):
        Stream([Source("a", reader, 1.0, depth)], TASKS, 32, -1)
    with pytest.raises(IndexError):
        stream(Source("a", reader, 1.0, depth))[-1]


def test_sampler_covers_each_position_once() -> None:
    ranks = [list(PositionSampler(12, 2, 5, rank, 3)) for rank in range(3)]
    assert sorted(p for batches in ranks for batch in batches for p in batch) == list(range(24, 60))
    assert [len(batch) for batch in ranks[0]] == [4, 4, 4] and len(PositionSampler(12, 2, 5, 0, 3)) == 3
    for wrong, message in [((10, 0, 1, 0, 3), "multiples"), ((12, 0, 1, 3, 3), "rank"), ((12, 5, 2, 0, 3), "steps")]:
        with pytest.raises(ValueError, match=message):
            PositionSampler(*wrong)


def test_batch_shapes_and_moving(shards: str) -> None:
    stream = make_stream(shards)
    batch = collate([stream[position] for position in range(5)])
    assert batch.target is not None and batch.valid is not None and len(batch) == 5
    assert batch.image.shape == batch.target.shape == (5, 3, 32, 32) and batch.image.dtype == torch.float32
    assert batch.valid.shape == (5, 1, 32, 32) and batch.points.shape == (5, 5, 2) and batch.point_mask.shape == (5, 5)
    assert batch.image.min() >= 0 and batch.image.max() <= 1
    assert [truth.kind for truth in batch.truths] and len(batch.prompts) == 5
    moved = batch.to("meta")
    assert moved.image.device.type == "meta" and moved.keys == batch.keys and batch.image.device.type == "cpu"
    with pytest.raises(ValueError, match="0 examples"):
        collate([])
    with pytest.raises(ValueError, match="one size"):
        collate([stream[0], make_stream(shards, size=40)[1]])


def test_a_million_samples_cost_no_more_memory_than_a_thousand() -> None:
    def peak(count: int) -> int:
        stream = Stream([Source("v", Virtual(count), 1.0, {"depth": 1.0})], TASKS, 16, 0)
        tracemalloc.start()
        keys = {stream[position].key for position in range(0, 20_000, 67)}
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(keys) > 250
        return size

    assert peak(10**6) < peak(10**3) + 10_000_000  # the shuffles in use, 16 KB each


def test_a_picture_is_not_mirrored_where_its_target_has_a_side() -> None:
    """As light from the upper left; unless it has no direction at all, as under a microscope."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = 200
    depth = DepthMap(np.linspace(1, 2, 1024).reshape(32, 32))
    sample = Sample("s", image, {"image": RGBImage(np.zeros((3, 32, 32), np.float32)), "depth": depth})
    tasks = {"relight": task_for_kind("image", "relight"), "depth": get_task("depth")}
    source = Source("a", MemoryReader([sample]), 1.0, {"relight": 0.5, "depth": 0.5})
    plain = Stream([source], tasks, 32, 0, Augment(hflip=1.0))
    assert {(e.task, bool(e.image[0, 0, 0])) for e in map(plain.__getitem__, range(20))} == {
        ("relight", True),
        ("depth", False),
    }
    turned = Stream([source], tasks, 32, 0, Augment(hflip=0.5, turns=True))
    seen = {e.image.tobytes() for e in map(turned.__getitem__, range(60)) if e.task == "relight"}
    assert len(seen) == 4, "two halves light, two orders"
