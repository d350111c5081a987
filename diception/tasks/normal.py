"""Surface normals: x, y, z painted as red, green, blue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import NormalMap
from diception.metrics import angular_error
from diception.tasks.base import Array, Evaluator, MeanEvaluator, Target, Task
from diception.tasks.decoding import DECODING
from diception.tasks.smoothing import smooth

BINS_PER_DEGREE = 100
UNPAINTED = 0.4
"""A vector whose length is this far from 1 is no noisy normal but none at all; black has length 1.73."""
THRESHOLDS = (5, 7.5, 11.25, 22.5, 30)


@dataclass(frozen=True, kw_only=True)
class Normal(Task):
    """Camera axes x right, y up, z towards the viewer; rgb = (n + 1) / 2."""

    type_name: ClassVar[str] = "normal"
    kind: ClassVar[str] = "normal"
    encodings: ClassVar[tuple[str, ...]] = ("rgb",)
    local: ClassVar[bool] = True
    released_encoding: ClassVar[str] = "rgb"

    def serves(self, annotation: NormalMap) -> bool:
        return bool(annotation.valid.any())

    def encode(self, annotation: NormalMap, generator: np.random.Generator) -> Target:
        valid = annotation.valid
        rgb = (annotation.normals + 1) / 2 * valid
        return Target(rgb.astype(np.float32), valid, self.prompt(), annotation)

    def decode(self, rgb: Array) -> NormalMap:
        pixels = np.ascontiguousarray(2 * rgb.transpose(1, 2, 0) - 1, np.float32)
        # A normal has length 1; what it has more or less is noise. Where nothing is painted that says nothing.
        excess = np.linalg.norm(pixels, axis=2, keepdims=True) - 1
        excess[np.abs(excess) > UNPAINTED] = np.nan
        vectors = smooth(pixels, excess, DECODING.length_noise).transpose(2, 0, 1)
        length = np.sqrt(np.square(vectors).sum(axis=0))
        facing = np.array([0, 0, 1], np.float32)[:, None, None]
        return NormalMap(np.where(length > 1e-3, vectors / np.maximum(length, 1e-3), facing).astype(np.float32))

    def evaluator(self) -> NormalEvaluator:
        return NormalEvaluator()

    def evaluators(self) -> list[Evaluator]:
        """Angles pooled over all images, and means of the images' own numbers."""
        return [NormalEvaluator(), PerImageNormalEvaluator()]

    def visualize(self, annotation: NormalMap, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The usual colours: facing surfaces are blue; invalid is black."""
        rgb = (annotation.normals + 1) * 127.5 * annotation.valid
        return np.rint(rgb.transpose(1, 2, 0)).astype(np.uint8)


class NormalEvaluator(Evaluator):
    """Angles of all valid pixels of all images pooled, as DSINE does."""

    protocol = "normals/dsine"
    primary = "mean"
    higher_is_better = False

    def __init__(self) -> None:
        self.histogram = np.zeros(180 * BINS_PER_DEGREE + 1, np.int64)
        self.sum = self.squares = 0.0

    def update(self, prediction: NormalMap, truth: NormalMap) -> None:  # type: ignore[override]
        angles = angular_error(prediction.normals, truth.normals)[truth.valid]
        bins = np.rint(angles * BINS_PER_DEGREE).astype(int)
        self.histogram += np.bincount(bins, minlength=len(self.histogram))
        self.sum += float(angles.sum())
        self.squares += float(np.square(angles).sum())

    def merge(self, other: NormalEvaluator) -> None:
        self.histogram += other.histogram
        self.sum += other.sum
        self.squares += other.squares

    def compute(self) -> dict[str, float]:
        """Degrees, and the percentage of pixels within each threshold; the median is exact to .01 degrees."""
        count = int(self.histogram.sum())
        if not count:
            return {"mean": float("nan")}
        below = self.histogram.cumsum() / count
        within = {f"within_{t:g}": 100 * float(below[round(t * BINS_PER_DEGREE)]) for t in THRESHOLDS}
        median = float(np.searchsorted(below, 0.5)) / BINS_PER_DEGREE
        return {"mean": self.sum / count, "median": median, "rmse": (self.squares / count) ** 0.5, **within}


class PerImageNormalEvaluator(MeanEvaluator):
    """Every image's own numbers, then their mean, as Marigold does: its median is a mean of medians."""

    protocol = "normals/marigold-perimage"
    primary = "mean"
    higher_is_better = False

    def measure(self, prediction: NormalMap, truth: NormalMap) -> dict[str, float] | None:
        if not truth.valid.any():
            return None
        angles = angular_error(prediction.normals, truth.normals)[truth.valid]
        within = {f"within_{t:g}": 100 * float((angles <= t).mean()) for t in THRESHOLDS}
        return {"mean": float(angles.mean()), "median": float(np.median(angles)), **within}
