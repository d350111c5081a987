"""`shards check`: every fault is counted and named, nothing crashes it, nothing is written outside."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tars import faults, forge, make_sample, one_fault, png, write

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, Keypoints, NormalMap
from diception.annotations.base import to_npy
from diception.datasets.check import ShardReport, check_shards
from diception.datasets.index import index_path, scan
from diception.datasets.measures import RESERVOIR, Numbers
from diception.datasets.shards import ShardReader

SIZE = (24, 32)


def check_one(folder: Path, members: dict[str, bytes]) -> ShardReport:
    return check_shards(forge(folder / "x.tar", members))


def remember(numbers: Iterable[int], told: list[int]) -> Iterator[int]:
    for number in numbers:
        told.append(number)
        yield number


def test_every_planted_fault_is_found_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path)
    assert check_shards(str(tmp_path / "*.tar")).ok
    small = make_sample(0, (24, 31)).annotations
    empty = InstanceMasks(np.zeros((1, 24, 32), bool), ("cup",), None)
    forge(
        tmp_path / "bad.tar",
        {
            "s0000.png": png(),
            "cut.png": png()[:40],
            "small.png": png(),
            "small.depth.npy": small["depth"].to_bytes(),
            "empty.png": png(),
            "empty.instances.json": empty.to_bytes(),
            "hole.png": png(),
            "hole.depth.npy": DepthMap(np.zeros((24, 32), np.float32)).to_bytes(),
            "broken.png": png(),
            "broken.normal.png": b"no",
        },
    )
    (tmp_path / "zero.tar").write_bytes(b"")
    told: list[int] = []
    report = check_shards(
        [tmp_path / "bad.tar", *sorted(tmp_path.glob("shard*.tar")), tmp_path / "zero.tar"],
        lambda numbers: remember(numbers, told),
    )
    assert told == list(range(13)) and not report.ok
    for (shard, key, problem), (s, k, part) in zip(
        faults(report),
        [
            ("zero.tar", "", "not an uncompressed"),
            ("bad.tar", "cut", "image"),
            ("bad.tar", "small", "depth has size (24, 31), its image (24, 32)"),
            ("bad.tar", "empty", "mask 0 of 1 is empty"),
            ("bad.tar", "hole", "no valid pixel"),
            ("bad.tar", "broken", "normal does not decode"),
            ("shard-000000.tar", "s0000", "key is already in"),
        ],
        strict=True,
    ):
        assert (shard, key) == (s, k) and part in problem
    assert report.samples == 6 + 7 and report.shards == 5
    least, *_, most = report.kinds["depth"].rows()["metres"]
    assert 1 <= least <= most <= 9
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["samples"] == 13
    assert "7 faults" in report.table()


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few bytes whose header claims a huge picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def depth_bytes(change: dict[int, float]) -> bytes:
    values = np.full(SIZE, 2, np.float16)
    values.reshape(-1)[list(change)] = list(change.values())
    return to_npy(values)


def pose(x: float) -> bytes:
    return Keypoints(np.full((1, 17, 3), x, np.float32), SIZE, np.ones(1, np.float32)).to_bytes()


BROKEN: dict[str, tuple[dict[str, bytes], str]] = {
    "image of 0 bytes": ({"a.jpg": b""}, "image"),
    "no image": ({"a.depth.npy": depth_bytes({})}, "no image"),
    "huge png": ({"a.png": bomb()}, "image"),
    "huge mask": ({"a.png": png(), "a.mask.png": bomb()}, "mask does not decode"),
    "huge array": (
        {"a.png": png(), "a.depth.npy": to_npy(np.zeros(SIZE)).replace(b"(24, 32), ", b"(9**9999,)")},
        "depth does not decode",
    ),
    "deep json": ({"a.png": png(), "a.keypoints.json": b"[" * 100_000}, "pose does not decode"),
    "mask of another size": (
        {"a.png": png(), "a.mask.png": BinaryMask(np.ones((24, 30), bool)).to_bytes()},
        "mask has size (24, 30), its image (24, 32)",
    ),
    "empty mask": ({"a.png": png(), "a.mask.png": BinaryMask(np.zeros(SIZE, bool)).to_bytes()}, "mask is empty"),
    "only nan": ({"a.png": png(), "a.depth.npy": to_npy(np.full(SIZE, np.nan, np.float32))}, "no valid pixel"),
    "negative depth": (
        {"a.png": png(), "a.depth.npy": depth_bytes({3: -1, 9: -4, 10: np.nan})},
        "negative at 2 pixels, down to -4",
    ),
    "long normals": (
        {"a.png": png(), "a.normal.png": NormalMap(np.full((3, *SIZE), 0.9, np.float32)).to_bytes()},
        "normals are not of length 1",
    ),
    "joints outside": ({"a.png": png(), "a.keypoints.json": pose(99)}, "17 visible keypoints lie outside"),
    "run lengths": (
        {"a.png": png(), "a.instances.json": b'{"size": [24, 32], "instances": [{"rle": "11", "category": "x"}]}'},
        "instances does not decode",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("members", "part"), BROKEN.values(), ids=BROKEN)
def test_a_broken_sample_is_named_and_the_next_is_read(tmp_path: Path, members: dict[str, bytes], part: str) -> None:
    report = check_one(tmp_path, {**members, "b.png": png()})
    one_fault(report, "x.tar", "a", part)
    assert report.samples == 2 and report.sizes["24x32"] >= 1


def test_pixels_without_depth_are_counted(tmp_path: Path) -> None:
    report = check_one(tmp_path, {"a.png": png(), "a.depth.npy": depth_bytes({0: np.nan, 1: np.inf, 2: 0, 3: 8})})
    assert report.ok and report.kinds["depth"].valid == pytest.approx(1 - 3 / (24 * 32))
    assert report.kinds["depth"].rows()["metres"][-1] == 8


def test_samples_before_a_cut_are_read(tmp_path: Path) -> None:
    shard = write(tmp_path, 3).shards[0]
    index = scan(shard)
    start = int(index.offsets[2][index.suffixes.index("depth.npy")])
    shard.write_bytes(shard.read_bytes()[: start + 100])
    report = check_shards(shard)
    one_fault(report, shard.name, "", "cut off inside 's0002.depth.npy'")
    assert report.samples == 2 == report.kinds["depth"].count
    with pytest.raises(ValueError, match=r"it has .* bytes, its index is of a tar of"):
        ShardReader(shard)
    index_path(shard).unlink()
    with pytest.raises(ValueError, match="cut off inside"):
        ShardReader(shard)


@pytest.mark.parametrize(
    ("kept", "part"),
    [(0, "cut off after 's0000"), (100, "cut off after 's0000"), (512, "cut off inside"), (-1, "broken header after")],
)
def test_a_shard_that_ends_between_two_members_is_cut_too(tmp_path: Path, kept: int, part: str) -> None:
    shard = write(tmp_path, 3).shards[0]
    data, index = shard.read_bytes(), scan(shard)
    index_path(shard).unlink()
    offsets = index.offsets[1]
    header = int(offsets[offsets >= 0].min()) - 512
    broken = data[:header] + b"\xff" * 100 + data[header + 100 :]
    shard.write_bytes(broken if kept < 0 else data[: header + kept])
    report = check_shards(shard)
    one_fault(report, shard.name, "", part)
    assert report.samples == 1
    with pytest.raises(ValueError, match=rf"shard-000000\.tar: {part}"):
        ShardReader(shard)


def test_a_shard_of_another_size_than_its_index_says_is_a_fault(tmp_path: Path) -> None:
    shard = write(tmp_path, 3).shards[0]
    shard.write_bytes(shard.read_bytes() + bytes(512))
    one_fault(check_shards(shard), shard.name, "", "bytes, its index is of a tar of")
    with pytest.raises(ValueError, match=r"shard-000000\.tar: it has .* bytes, its index is of a tar of"):
        ShardReader(shard)


def test_an_index_that_is_not_of_its_shard_is_told(tmp_path: Path) -> None:
    shard = write(tmp_path, 3).shards[0]
    content = json.loads(index_path(shard).read_text())
    content["keys"][1] = "other"
    index_path(shard).write_text(json.dumps(content))
    one_fault(check_shards(shard), shard.name, "", "shard-000000.index.json does not say what the shard holds")
    index_path(shard).write_text("{}")
    one_fault(check_shards(shard), shard.name, "", "not a shard index")


def test_what_is_no_tar_and_unsafe_names_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "a.tar").write_text("not a tar at all\n" * 100)
    forge(folder / "b.tar", {"../../etc/x.png": png(), "good.png": png(), "a/../b.png": png()})
    before = sorted(tmp_path.rglob("*"))
    report = check_shards(str(folder / "*.tar"))
    names = [(shard, problem) for shard, _, problem in faults(report)]
    assert [shard for shard, _ in names] == ["a.tar", "b.tar", "b.tar"]
    assert "not an uncompressed" in names[0][1] and "'../../etc/x' is not allowed" in names[1][1]
    assert "'a/../b' is not allowed" in names[2][1]
    assert report.samples == 1 and sorted(tmp_path.rglob("*")) == before
    assert not Path("/etc/x.png").exists()


def test_a_key_that_repeats_within_a_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", 2)
    forge(tmp_path / "x.tar", {"s0001.png": png(), "n.png": png(), "s0001.jpg": png(), "s0000.png": png()})
    report = check_shards([tmp_path / "x.tar", tmp_path / "a" / "shard-000000.tar"])
    assert [(shard, key) for shard, key, _ in faults(report)] == [
        ("x.tar", "s0001"),
        ("shard-000000.tar", "s0000"),
        ("shard-000000.tar", "s0001"),
    ]
    assert all(problem == f"key is already in {tmp_path / 'x.tar'}" for _, _, problem in faults(report))


def test_numbers_keep_few_of_many() -> None:
    numbers = Numbers()
    for start in range(0, 100_000, 1000):
        numbers.add(np.arange(start, start + 1000))
    low, second, middle, _, high = numbers.quantiles()
    assert len(numbers.kept) == RESERVOIR and (low, high) == (0, 99_999)
    assert 47_000 < middle < 53_000 and 1000 < second < 3000
