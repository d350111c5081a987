"""Depth: painted as grey, near bright; predictions are affine-invariant disparity or log depth in floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import DepthMap
from diception.colors import colormap
from diception.metrics import abs_rel, align_least_squares, delta, rmse
from diception.tasks.base import Array, MeanEvaluator, Target, Task, spread

QUANTILES = (0.02, 0.98)
"""The released code computes them and then undoes them; here values beyond them are really clipped."""
LEAST_DISPARITY = 1e-3
"""Fitted disparity is clipped to this before it is inverted (GenPercept's evaluation of disparity models)."""


@dataclass(frozen=True, kw_only=True)
class Depth(Task):
    """Encodings: `disparity` (inverse depth, 2 % to 98 % clipped), `log`, `released` (inverse depth, min to max)."""

    type_name: ClassVar[str] = "depth"
    kind: ClassVar[str] = "depth"
    encodings: ClassVar[tuple[str, ...]] = ("disparity", "log", "released")
    released_encoding: ClassVar[str] = "released"

    def serves(self, annotation: DepthMap) -> bool:
        values = annotation.values[annotation.valid]
        return values.size > 0.05 * annotation.values.size and values.max() > values.min() * 1.001

    def encode(self, annotation: DepthMap, generator: np.random.Generator) -> Target:
        valid = annotation.valid
        depth = np.where(valid, annotation.values, 1)
        nearness = -np.log(depth) if self.encoding == "log" else 1 / depth
        quantiles = (0, 1) if self.encoding == "released" else QUANTILES
        low, high = np.quantile(nearness[valid], quantiles)
        grey = np.clip((nearness - low) / max(high - low, 1e-9), 0, 1) * valid
        return Target(spread(grey), valid, self.prompt(), annotation)

    def decode(self, rgb: Array) -> DepthMap:
        """The mean of the channels: in space `disparity`, or `log` (then far is bright again: log of depth)."""
        grey = rgb.mean(axis=0)
        return DepthMap(1 - grey, "log") if self.encoding == "log" else DepthMap(grey, "disparity")

    def evaluator(self) -> DepthEvaluator:
        return LogDepthEvaluator() if self.encoding == "log" else DepthEvaluator()

    def visualize(self, annotation: DepthMap, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Near is warm, far is cold; invalid is black."""
        valid, values = annotation.valid, annotation.values
        if not valid.any():
            return np.zeros((*values.shape, 3), np.uint8)
        safe = np.where(valid, values, values[valid].max())
        nearness = {"depth": lambda: 1 / safe, "disparity": lambda: safe, "log": lambda: -safe}[annotation.space]()
        low, high = np.quantile(nearness[valid], QUANTILES)
        picture = colormap(np.clip((nearness - low) / max(high - low, 1e-9), 0, 1))
        return picture * valid[..., None].astype(np.uint8)


class DepthEvaluator(MeanEvaluator):
    """Scale and shift fitted per image by least squares in disparity, then metrics in metres, then the mean."""

    protocol = "depth/ls-disparity"
    primary = "abs_rel"
    higher_is_better = False

    def measure(self, prediction: DepthMap, truth: DepthMap) -> dict[str, float] | None:
        valid = truth.valid & prediction.valid
        if not valid.any():
            return None
        depth, values = truth.values[valid].astype(np.float64), prediction.values[valid].astype(np.float64)
        aligned = np.clip(self.align(values, depth), 1e-6, 1.05 * depth.max())
        return {"abs_rel": abs_rel(aligned, depth), "delta1": delta(aligned, depth), "rmse": rmse(aligned, depth)}

    def align(self, values: NDArray, depth: NDArray) -> NDArray:
        """(n,) predicted disparity to metres."""
        return 1 / np.maximum(align_least_squares(values, 1 / depth), LEAST_DISPARITY)


class LogDepthEvaluator(DepthEvaluator):
    """The same with the fit in log depth."""

    protocol = "depth/ls-log"

    def align(self, values: NDArray, depth: NDArray) -> NDArray:
        return np.exp(align_least_squares(values, np.log(depth)))
