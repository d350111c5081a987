"""Samples that are the same in every run, shards of them, tars with any members, and the faults found in them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, LabelMap, NormalMap
from diception.datasets.check import ShardReport
from diception.datasets.sample import Sample
from diception.datasets.shards import ShardReader
from diception.datasets.writer import ShardWriter, write_samples


def make_sample(i: int, size: tuple[int, int] = (24, 32)) -> Sample:
    rng = np.random.default_rng(i)
    normals = rng.normal(size=(3, *size)).astype(np.float32)
    masks = np.zeros((2, *size), bool)
    masks[0, 2:9, 3:12], masks[1, 12:20, 5 : 20 + i % 5] = True, True
    return Sample(
        f"s{i:04d}",
        rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        {
            "depth": DepthMap(rng.uniform(1, 9, size).astype(np.float32)),
            "normal": NormalMap(normals / np.linalg.norm(normals, axis=0)),
            "instances": InstanceMasks(masks, ("cup", "dog"), None),
            "mask": BinaryMask(masks[0], category="crack"),
            "labels": LabelMap(masks[0] + 2 * masks[1].astype(np.int32), ("none", "a", "b")),
        },
    )


def write(folder: Path, count: int = 7, per_shard: int = 3) -> ShardReader:
    write_samples(map(make_sample, range(count)), ShardWriter(folder, per_shard, image_format="png"))
    return ShardReader(str(folder / "*.tar"))


def forge(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def png(size: tuple[int, int] = (24, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), (10, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def faults(report: ShardReport) -> list[tuple[str, str, str]]:
    return [(Path(fault.shard).name, fault.key, fault.problem) for fault in report.faults]


def one_fault(report: ShardReport, shard: str, key: str, part: str) -> None:
    assert len(report.faults) == 1, report.table()
    found = faults(report)[0]
    assert found[:2] == (shard, key) and part in found[2]
