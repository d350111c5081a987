"""What is worth knowing about an annotation's values, and what cannot be right about them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, Keypoints, LabelMap, NormalMap, RGBImage
from diception.tasks.label_map import COLORS, VOID

RESERVOIR = 20_000
"""Numbers that are kept to take quantiles of, drawn evenly from all."""
LENGTH_ERROR = 0.02
"""8 bits a component leave a normal's length of 1 within about 0.01."""
Values = NDArray[Any]


@dataclass
class Numbers:
    """Range and quantiles of a stream of numbers of any length."""

    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    kept: list[float] = field(default_factory=list)
    _draw: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, values: Values) -> None:
        for value in np.asarray(values, np.float64).ravel().tolist():
            self.low, self.high = min(self.low, value), max(self.high, value)
            self.count += 1
            place = self._draw.randrange(self.count) if self.count > RESERVOIR else self.count
            if self.count <= RESERVOIR:
                self.kept.append(value)
            elif place < RESERVOIR:
                self.kept[place] = value

    def quantiles(self) -> tuple[float, float, float, float, float]:
        """Least, 2 %, median, 98 %, most; only where there is a number."""
        low, middle, high = np.quantile(self.kept, (0.02, 0.5, 0.98))
        return self.low, float(low), float(middle), float(high), self.high


@dataclass(frozen=True)
class Measure:
    """Of one annotation: named numbers, share of valid pixels, and what is wrong."""

    numbers: dict[str, Values]
    valid: float = 1.0
    problems: tuple[str, ...] = ()


def _ends(values: Values) -> Values:
    return np.array([values.min(), values.max()]) if values.size else np.zeros(0)


def _depth(depth: DepthMap) -> Measure:
    valid, finite = depth.valid, np.isfinite(depth.values)
    problems = [] if valid.any() else ["depth has no valid pixel"]
    negative = int((finite & (depth.values < 0)).sum())
    if negative:
        problems.append(f"depth is negative at {negative} pixels, down to {depth.values[finite].min():.4g}")
    values = depth.values[valid]
    numbers = {"metres": _ends(values)}
    if values.size:
        shares = {"2 % of an image": 0.02, "median of an image": 0.5, "98 % of an image": 0.98}
        found = np.quantile(values, list(shares.values()))
        numbers |= {f"metres, {name}": found[i : i + 1] for i, name in enumerate(shares)}
    return Measure(numbers, float(valid.mean()), tuple(problems))


def _normal(normal: NormalMap) -> Measure:
    length = np.linalg.norm(normal.normals, axis=0)
    valid = length > 0
    problems = [] if valid.any() else ["normal has no valid pixel"]
    if valid.any() and np.abs(length[valid] - 1).max() > LENGTH_ERROR:
        problems.append(f"normals are not of length 1 but {length[valid].min():.3f} to {length[valid].max():.3f}")
    facing = normal.normals[2][valid]
    numbers = {
        "length": _ends(length[valid]),
        "towards the viewer": facing.mean(keepdims=True) if facing.size else facing,
    }
    return Measure(numbers, float(valid.mean()), tuple(problems))


def _mask(mask: BinaryMask) -> Measure:
    share = float(mask.mask.mean())
    return Measure({"share of the image": np.array([share])}, 1.0, () if share > 0 else ("mask is empty",))


def _instances(instances: InstanceMasks) -> Measure:
    # Of what is stored: nothing is painted for it, however large the masks are.
    shares = instances.areas / (instances.size[0] * instances.size[1])
    problems = [f"mask {i} of {len(shares)} is empty" for i in np.flatnonzero(shares == 0)]
    return Measure({"masks": np.array([len(shares)]), "share of the image": shares}, 1.0, tuple(problems))


def _pose(pose: Keypoints) -> Measure:
    points = pose.people[pose.visible]
    height, width = pose.size
    problems = [] if np.isfinite(pose.people).all() else ["keypoints are not finite"]
    inside = (points[:, :2] >= 0).all(axis=1) & (points[:, 0] <= width) & (points[:, 1] <= height)
    if not inside.all():
        problems.append(f"{int((~inside).sum())} visible keypoints lie outside the image")
    numbers = {"people": np.array([len(pose)]), "joints of a person": pose.visible.sum(axis=1)}
    return Measure(numbers, 1.0, tuple(problems))


def _labels(labels: LabelMap) -> Measure:
    kinds = np.unique(labels.labels)
    wrong = kinds[((kinds < 0) | (kinds >= len(COLORS))) & (kinds != VOID)]
    problems = [f"label map has label {wrong[0]}; allowed: 0 to {len(COLORS) - 1}, and {VOID}"] if wrong.size else []
    return Measure({"labels": _ends(kinds), "labels of an image": np.array([len(kinds)])}, 1.0, tuple(problems))


def _image(image: RGBImage) -> Measure:
    return Measure({"values": _ends(image.rgb)})


MEASURES: dict[str, tuple[str, Callable[[Any], Measure]]] = {
    DepthMap.kind: ("metres along the axis", _depth),
    NormalMap.kind: ("where surfaces face", _normal),
    BinaryMask.kind: ("one mask an image", _mask),
    InstanceMasks.kind: ("masks of objects", _instances),
    Keypoints.kind: ("people's joints", _pose),
    LabelMap.kind: ("a label a pixel", _labels),
    RGBImage.kind: ("a picture to paint", _image),
}
"""Kind of annotation -> what it is in words, and how it is measured."""


@dataclass
class KindReport:
    """How often a kind of annotation occurs and what its values are."""

    count: int = 0
    valid: float = 0.0
    """Share of pixels that are valid, mean over samples."""
    numbers: dict[str, Numbers] = field(default_factory=dict)

    def add(self, measure: Measure) -> None:
        self.valid = (self.valid * self.count + measure.valid) / (self.count + 1)
        self.count += 1
        for name, values in measure.numbers.items():
            self.numbers.setdefault(name, Numbers()).add(values)

    def rows(self) -> dict[str, tuple[float, float, float, float, float]]:
        """What is measured -> least, 2 %, median, 98 %, most."""
        return {name: numbers.quantiles() for name, numbers in self.numbers.items() if numbers.count}
