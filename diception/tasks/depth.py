"""Depth: painted as grey, near bright; predictions are affine-invariant disparity or log depth in floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from diception.annotations import DepthMap
from diception.annotations.base import DepthSpace
from diception.colors import color_path, colormap, nearest_on_path
from diception.metrics import abs_rel, align_least_squares, delta, rmse
from diception.tasks.base import Array, MeanEvaluator, Target, Task, spread
from diception.tasks.smoothing import smooth

QUANTILES = (0.02, 0.98)
"""The released code computes them and then undoes them; here values beyond them are really clipped."""
LEAST_DISPARITY = 1e-3
"""Fitted disparity is clipped to this before it is inverted (GenPercept's evaluation of disparity models)."""
LARGEST_LOG = 5.0
"""Fitted log depth is clipped to this (FE2E)."""
FARTHEST = 1.05
"""Fitted depth is clipped to this many times the largest true one; the protocols use the limits of a data set."""
PROTOCOLS = {"depth": "depth/marigold-ls", "disparity": "depth/marigold-ls-disp", "log": "depth/log-ls"}


@dataclass(frozen=True, kw_only=True)
class Depth(Task):
    """Encodings of depth.

    `disparity` is grey, inverse depth between its 2 % and 98 % quantiles; `log` the same with log depth; `spectrum` is
    `disparity` along seven edges of the colour cube, which survives noise far better but asks a model for more than a
    brightness; `released` is inverse depth from least to most.
    """

    type_name: ClassVar[str] = "depth"
    kind: ClassVar[str] = "depth"
    encodings: ClassVar[tuple[str, ...]] = ("disparity", "log", "released", "spectrum")
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
        rgb = color_path(grey.astype(np.float32)) if self.encoding == "spectrum" else spread(grey)
        return Target(rgb, valid, self.prompt(), annotation)

    def decode(self, rgb: Array) -> DepthMap:
        """The mean of the channels: in space `disparity`, or `log` (then far is bright again: log of depth).

        From a spectrum, the nearest value on its path; a 5 x 5 median takes off what blurred edges show in between.
        """
        if self.encoding == "spectrum":
            values = nearest_on_path(cv2.medianBlur(rgb.transpose(1, 2, 0).copy(), 3).transpose(2, 0, 1))
            return DepthMap(np.asarray(cv2.medianBlur(values, 5), np.float32), "disparity")
        pixels = np.ascontiguousarray(rgb.transpose(1, 2, 0), np.float32)
        grey = pixels.mean(axis=2, keepdims=True)
        # A grey has equal channels; their differences are noise, three times the variance of their mean's.
        differences = np.asarray((pixels - np.roll(pixels, 1, axis=2)) / 6**0.5, np.float32)
        grey = smooth(grey, differences)[..., 0]
        return DepthMap(1 - grey, "log") if self.encoding == "log" else DepthMap(grey, "disparity")

    def evaluator(self) -> DepthEvaluator:
        return DepthEvaluator("log" if self.encoding == "log" else "disparity")

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
    """Scale and shift fitted per image by least squares over valid pixels, then metrics in metres, then the mean.

    Fitted in disparity as Marigold and GenPercept do for models that predict disparity (`depth/marigold-ls-disp`), in
    log depth as FE2E does (`depth/log-ls`), in depth as Marigold does (`depth/marigold-ls`): in its own space.
    """

    primary = "abs_rel"
    higher_is_better = False

    def __init__(self, space: DepthSpace):
        super().__init__()
        self.protocol = PROTOCOLS[space]
        self._fit = {"depth": _fit_depth, "disparity": _fit_disparity, "log": _fit_log}[space]
        self._space = space

    def measure(self, prediction: DepthMap, truth: DepthMap) -> dict[str, float] | None:
        if prediction.space != self._space:
            raise ValueError(
                f"{self.protocol} measures predictions in {self._space}, this one is in {prediction.space}"
            )
        if not truth.valid.any():
            return None
        depth = truth.values[truth.valid].astype(np.float64)
        values = _filled(prediction)[truth.valid].astype(np.float64)
        aligned = np.clip(self._fit(values, depth), 1e-6, FARTHEST * depth.max())
        deltas = {f"delta{power}": delta(aligned, depth, power) for power in (1, 2, 3)}
        return {"abs_rel": abs_rel(aligned, depth), **deltas, "rmse": rmse(aligned, depth)}


def _filled(prediction: DepthMap) -> NDArray:
    """What is predicted, and its mean where nothing is: an answer that is left out counts, too."""
    valid = prediction.valid
    mean = prediction.values[valid].mean() if valid.any() else 1.0
    return np.where(valid, prediction.values, mean)


def _fit_depth(values: NDArray, depth: NDArray) -> NDArray:
    return align_least_squares(values, depth)


def _fit_disparity(values: NDArray, depth: NDArray) -> NDArray:
    return 1 / np.maximum(align_least_squares(values, 1 / depth), LEAST_DISPARITY)


def _fit_log(values: NDArray, depth: NDArray) -> NDArray:
    return np.exp(np.minimum(align_least_squares(values, np.log(depth)), LARGEST_LOG))
