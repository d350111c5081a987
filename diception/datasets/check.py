"""What is in a set of shards: counts, value ranges, and every fault by shard and key."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diception.annotations import (
    Annotation,
    BinaryMask,
    DepthMap,
    InstanceMasks,
    Keypoints,
    LabelMap,
    NormalMap,
    RGBImage,
)
from diception.datasets.cache import ShardCache
from diception.datasets.images import DECODE_ERRORS
from diception.datasets.shards import ShardReader
from diception.datasets.urls import expand


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; the key is empty where it is the shard itself."""

    shard: str
    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.key}: {self.problem}" if self.key else f"{self.shard}: {self.problem}"


@dataclass
class KindReport:
    """How often a kind of annotation occurs and what its values are."""

    measures: str
    """What `low` and `high` are of."""
    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    valid: float = 0.0
    """Share of pixels that are valid, mean over samples."""


@dataclass
class ShardReport:
    """What `check` found."""

    shards: int = 0
    samples: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    """Image size "HxW" -> samples."""
    kinds: dict[str, KindReport] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """JSON can hold it: a range without values is (None, None)."""
        content = asdict(self)
        for kind in content["kinds"].values():
            for end in ("low", "high"):
                kind[end] = kind[end] if math.isfinite(kind[end]) else None
        return content

    def table(self) -> str:
        """Several lines for a terminal."""
        sizes = ", ".join(f"{size} ({count})" for size, count in Counter(self.sizes).most_common(4))
        lines = [f"{self.samples} samples in {self.shards} shards; image sizes: {sizes or 'none'}"]
        for kind, report in sorted(self.kinds.items()):
            values = f"{report.measures} {report.low:.4g} to {report.high:.4g}, valid {report.valid:.1%}"
            lines.append(f"  {kind}: {report.count} samples, {values}")
        lines.append(f"{len(self.faults)} faults" + (":" if self.faults else ""))
        return "\n".join(lines + [f"  {fault}" for fault in self.faults])


@dataclass(frozen=True)
class Measure:
    """Range, share of valid pixels and faults of one annotation."""

    low: float
    high: float
    valid: float = 1.0
    problems: tuple[str, ...] = ()


def _range(values: np.ndarray, valid: float, problems: Sequence[str] = ()) -> Measure:
    if values.size == 0:
        return Measure(float("inf"), float("-inf"), valid, tuple(problems))
    return Measure(float(values.min()), float(values.max()), valid, tuple(problems))


def _depth(depth: DepthMap) -> Measure:
    valid = depth.valid
    problems = [] if valid.any() else ["depth has no valid pixel"]
    return _range(depth.values[valid], float(valid.mean()), problems)


def _normal(normal: NormalMap) -> Measure:
    length = np.linalg.norm(normal.normals, axis=0)
    valid = length > 0
    problems = [] if valid.any() else ["normal has no valid pixel"]
    # 8 bits a component leave a length of 1 within about 0.01.
    if valid.any() and np.abs(length[valid] - 1).max() > 0.02:
        problems.append(f"normals are not of length 1 but {length[valid].min():.3f} to {length[valid].max():.3f}")
    return _range(normal.normals[:, valid], float(valid.mean()), problems)


def _mask(mask: BinaryMask) -> Measure:
    share = float(mask.mask.mean())
    return Measure(share, share, 1.0, () if share > 0 else ("mask is empty",))


def _instances(instances: InstanceMasks) -> Measure:
    count = len(instances.masks)
    problems = [f"mask {i} of {count} is empty" for i, mask in enumerate(instances.masks) if not mask.any()]
    return Measure(count, count, 1.0, tuple(problems))


def _pose(pose: Keypoints) -> Measure:
    points = pose.people[pose.people[..., 2] > 0]
    height, width = pose.size
    outside = ((points[:, 0] < 0) | (points[:, 0] > width) | (points[:, 1] < 0) | (points[:, 1] > height)).sum()
    problems = (f"{int(outside)} visible keypoints lie outside the image",) if outside else ()
    return Measure(len(pose.people), len(pose.people), 1.0, problems)


def _labels(labels: LabelMap) -> Measure:
    problems = ["label map has a negative label"] if labels.labels.min() < 0 else []
    return _range(labels.labels, 1.0, problems)


def _image(image: RGBImage) -> Measure:
    return _range(image.rgb, 1.0)


MEASURES: dict[str, tuple[str, Callable[[Any], Measure]]] = {
    "depth": ("metres", _depth),
    "normal": ("components", _normal),
    "mask": ("share of the image", _mask),
    "instances": ("masks per image", _instances),
    "pose": ("people per image", _pose),
    "labels": ("labels", _labels),
    "image": ("values", _image),
}


def _record(report: ShardReport, kind: str, measure: Measure) -> None:
    entry = report.kinds.setdefault(kind, KindReport(MEASURES[kind][0]))
    entry.low, entry.high = min(entry.low, measure.low), max(entry.high, measure.high)
    entry.valid = (entry.valid * entry.count + measure.valid) / (entry.count + 1)
    entry.count += 1


def _check_sample(reader: ShardReader, row: int, report: ShardReport) -> Iterator[str]:
    """Every problem of one sample of a reader of one shard."""
    size: tuple[int, ...] | None = None
    try:
        size = reader.read_image(0, row).shape[:2]
        name = f"{size[0]}x{size[1]}"
        report.sizes[name] = report.sizes.get(name, 0) + 1
    except DECODE_ERRORS as error:
        yield f"image: {error}"
    for kind in sorted(reader.kinds(row)):
        try:
            annotation: Annotation = reader.read_annotation(0, row, kind)
        except DECODE_ERRORS as error:
            yield f"{kind} does not decode: {error!r}"
            continue
        if size is not None and annotation.size != size:
            yield f"{kind} has size {annotation.size}, its image {size}"
        measure = MEASURES[kind][1](annotation)
        _record(report, kind, measure)
        yield from measure.problems


def _open(urls: Sequence[str], cache: ShardCache | None, report: ShardReport) -> list[tuple[str, ShardReader]]:
    readers = []
    for url in urls:
        try:
            readers.append((url, ShardReader([url], cache)))
        except ValueError as error:
            report.faults.append(Fault(url, "", str(error).removeprefix(f"{url}: ")))
    return readers


def check_shards(
    urls: str | Path | Sequence[str | Path],
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    cache: ShardCache | None = None,
) -> ShardReport:
    """Read everything once and go on after every fault; `progress` wraps the sample numbers, as tqdm does."""
    shards = expand(urls)
    report = ShardReport(len(shards))
    readers = _open(shards, cache, report)
    numbers = iter(progress(range(sum(len(reader) for _, reader in readers))))
    first_place: dict[str, str] = {}
    for url, reader in readers:
        for row in range(len(reader)):
            next(numbers)
            key = reader.key(row)
            problems = list(_check_sample(reader, row, report))
            if key in first_place:
                problems.append(f"key is already in {first_place[key]}")
            first_place.setdefault(key, url)
            report.faults.extend(Fault(url, key, problem) for problem in problems)
            report.samples += 1
        reader.close()
    # Past its end, so that a progress bar closes.
    next(numbers, None)
    return report
