"""Corrupt samples: replaced and counted, and too many of them stop the stream with a list."""

from __future__ import annotations

from pathlib import Path

import pytest
from readers import TASKS, Broken, Virtual, random_sample

from diception.datasets.mixture import Source, Stream
from diception.datasets.sample import CorruptSample, Sample
from diception.datasets.shards import ShardReader
from diception.datasets.writer import ShardWriter, write_samples


def test_a_corrupt_sample_is_replaced_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream([Source("a", Broken(200, {7, 11}), 1.0, {"depth": 1.0})], TASKS, 32, 0)
    keys = [stream[position].key for position in range(200)]
    assert len(keys) == 200 and len(set(keys)) == 198
    assert stream.faults == {"a": {"x.tar: s0007": "cut off", "x.tar: s0011": "cut off"}}
    assert "x.tar: sample 's0007': cut off" in caplog.text
    again = Stream([Source("a", Broken(200, {7, 11}), 1.0, {"depth": 1.0})], TASKS, 32, 0)
    assert [again[position].key for position in reversed(range(200))] == keys[::-1]


def test_many_corrupt_samples_stop_the_stream_with_a_list() -> None:
    stream = Stream([Source("a", Broken(200, {3, 7, 11}), 1.0, {"depth": 1.0})], TASKS, 32, 0)
    with pytest.raises(
        RuntimeError, match=r"'a': 3 corrupt among the \d+ samples read of its 200, at most 2 \(1\.0% of 200\) are"
    ) as caught:
        for position in range(200):
            stream[position]
    assert all(f"x.tar: s{i:04d}: cut off" in str(caught.value) for i in (3, 7, 11))


SMALL = random_sample(0, size=16)


class Uneven(Virtual):
    """The same ten samples for normals again and again, many for depth, of which every twentieth is corrupt."""

    def read(self, i: int, kinds=None, **options) -> Sample:
        if i % 20 == 19:
            raise CorruptSample("x.tar", f"v{i}", "cut off")
        return Sample(f"v{i}", SMALL.image, SMALL.annotations)

    def serving(self, kind: str) -> range:
        return range(10) if kind == "normal" else range(10, self.count)


def test_samples_read_again_make_the_share_of_corrupt_ones_no_smaller() -> None:
    stream = Stream([Source("a", Uneven(4000), 1.0, {"normal": 0.9, "depth": 0.1})], TASKS, 16, 0)
    with pytest.raises(RuntimeError, match=r"11 corrupt among the \d{3} samples read of its 4000, at most 10 "):
        for position in range(4000):
            stream._draw(*stream.locate(position))


def test_a_corrupt_shard_member_is_replaced(tmp_path: Path) -> None:
    write_samples((random_sample(i, size=32) for i in range(150)), ShardWriter(tmp_path, 150, image_format="png"))
    reader = ShardReader(str(tmp_path / "*.tar"))
    place = reader.indexes[0].member(42, "png")
    assert place is not None
    with open(reader.shards[0], "r+b") as file:
        file.seek(place[0])
        file.write(bytes(200))
    stream = Stream([Source("a", ShardReader(str(tmp_path / "*.tar")), 1.0, {"depth": 1.0})], TASKS, 32, 0)
    assert "s0042" not in {stream[position].key for position in range(150)}
    assert [name.split(": ")[1] for name in stream.faults["a"]] == ["s0042"]
