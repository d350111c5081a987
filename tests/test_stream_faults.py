"""What the stream meets in real data: one-sided sets, broken shards, targets that vanish, file systems that fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from diception.annotations import DepthMap, InstanceMasks, LabelMap
from diception.datasets import shards
from diception.datasets.mixture import Source, Stream
from diception.datasets.sample import CorruptSample, MemoryReader, Sample
from diception.datasets.shards import ShardReader
from diception.datasets.synthetic import render_scene
from diception.datasets.transforms import Augment
from diception.datasets.writer import ShardWriter, write_samples
from diception.evaluation import HeldOut
from diception.tasks import get_task, task_for_kind

PICTURE = np.zeros((8, 8, 3), np.uint8)
SQUARE = np.zeros((1, 8, 8), bool)
SQUARE[0, 2:6, 2:6] = True


class Many(MemoryReader):
    """So many samples, made when they are read: those before `named` have no category, those in `dead` no bytes."""

    def __init__(self, count: int, named: int = 0, dead: range = range(0)) -> None:
        self.count, self.named, self.dead = count, named, dead

    def __len__(self) -> int:
        return self.count

    def serving(self, kind: str) -> np.ndarray:
        return np.arange(self.count)

    def read(self, i: int, kinds=None) -> Sample:
        if i in self.dead:
            raise CorruptSample("x.tar", f"s{i}", "cut off")
        return Sample(f"s{i}", PICTURE, {"instances": InstanceMasks(SQUARE, ("cup" if i >= self.named else "",))})


def stream_of(reader: MemoryReader | ShardReader, task: str, size: int = 8, **options) -> Stream:
    return Stream([Source("a", reader, 1.0, {task: 1.0})], {task: get_task(task)}, size, 0, **options)


@pytest.mark.parametrize("count", [4000, 6000])
def test_a_set_of_which_a_half_cannot_serve_is_read_from_the_other(count: int) -> None:
    stream = stream_of(Many(count, named=count // 2), "semantic_segmentation")
    keys = [stream[position].key for position in range(300)]
    assert all(int(key[1:]) >= count // 2 for key in keys) and len(set(keys)) > 100
    again = stream_of(Many(count, named=count // 2), "semantic_segmentation")
    assert [again[position].key for position in reversed(range(300))] == keys[::-1]


def test_a_broken_shard_among_many_costs_one_sample_a_turn() -> None:
    stream = stream_of(Many(120_000, dead=range(50_000, 51_000)), "entity_segmentation")
    for position in range(2000):
        stream[position]
    assert 0 < len(stream.faults["a"]) <= 20
    dead = stream_of(Many(120_000, dead=range(100_000)), "entity_segmentation")
    with pytest.raises(RuntimeError, match="11 corrupt among"):
        for position in range(100):
            dead[position]


def test_what_vanishes_in_the_mirror_is_shown_as_it_is() -> None:
    wire, sparse = np.zeros((1, 256, 256), bool), np.zeros((256, 256), np.float32)
    wire[0, :, 101], sparse[:, 1::2] = True, np.linspace(1, 5, 128)
    kinds = {"instances": InstanceMasks(wire, ("wire",)), "depth": DepthMap(sparse)}
    assert not len(kinds["instances"].hflip().resize(128, 128))
    reader = MemoryReader([Sample("wire", np.zeros((256, 256, 3), np.uint8), kinds)])
    for task in ("point_segmentation", "semantic_segmentation", "entity_segmentation", "depth"):
        stream = stream_of(reader, task, 128, augment=Augment(hflip=0.5, turns=True))
        assert all(stream[position].target.rgb.any() for position in range(12))


def test_a_sample_that_cannot_be_painted_is_named() -> None:
    task = task_for_kind("labels", "parts")
    city = Sample("city", PICTURE, {"labels": LabelMap(np.full((8, 8), 40))})
    stream = Stream([Source("a", MemoryReader([city]), 1.0, {"parts": 1.0})], {"parts": task}, 8, 0)
    with pytest.raises(ValueError, match="sample 'city': parts: label 40"):
        stream[0]
    with pytest.raises(ValueError, match="sample 'city': parts: label 40"):
        list(HeldOut(task, MemoryReader([city]), 1, 8))


def failing(code: int, times: int):  # noqa: ANN201
    """`os.pread` of a file system that fails so many times."""
    left, read = [times], os.pread

    def pread(handle: int, size: int, offset: int) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return read(handle, size, offset)

    return pread


def test_a_file_system_that_fails_corrupts_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples((render_scene(0, index, 32) for index in range(4)), ShardWriter(tmp_path))
    monkeypatch.setattr(shards, "PAUSES_S", (0, 0))
    whole = stream_of(ShardReader(str(tmp_path / "*.tar")), "depth", 32)
    keys = [whole[position].key for position in range(4)]
    monkeypatch.setattr(os, "pread", failing(errno.ESTALE, 2))
    stream = stream_of(ShardReader(str(tmp_path / "*.tar")), "depth", 32)
    assert [stream[position].key for position in range(4)] == keys and not stream.faults
    monkeypatch.setattr(os, "pread", failing(errno.EIO, 3))
    with pytest.raises(OSError, match=r"shard-000000\.tar: Input/output error"):
        stream_of(ShardReader(str(tmp_path / "*.tar")), "depth", 32)[0]
