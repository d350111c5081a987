"""Foreground: any binary mask, painted white on black; the default of few-shot adaptation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import Annotation, BinaryMask
from diception.colors import overlay_mask
from diception.metrics import boundary_f1, dice, iou, otsu_threshold
from diception.tasks.base import Array, MeanEvaluator, Target, Task, spread

THRESHOLDS = np.linspace(0.1, 0.9, 33)


@dataclass(frozen=True, kw_only=True)
class Foreground(Task):
    """A mask; the threshold of its decoder may be fitted on training images."""

    type_name: ClassVar[str] = "foreground"
    kind: ClassVar[str] = "mask"
    encodings: ClassVar[tuple[str, ...]] = ("mask",)
    local: ClassVar[bool] = True
    turns: ClassVar[bool] = True
    fitted: ClassVar[bool] = True
    threshold: float = 0.5

    def encode(self, annotation: BinaryMask, generator: np.random.Generator) -> Target:
        return Target(spread(annotation.mask), np.ones(annotation.size, bool), self.prompt(), annotation)

    def decode(self, rgb: Array) -> BinaryMask:
        return BinaryMask(rgb.mean(axis=0) > self.threshold)

    def evaluator(self) -> MaskEvaluator:
        return MaskEvaluator()

    def visualize(self, annotation: BinaryMask, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        return overlay_mask(annotation.mask, image)

    def baselines(self, mean_rgb: Array, target: Target) -> dict[str, Annotation]:
        """The mean painting, and the whole image: what a mask's area alone is worth."""
        everything = BinaryMask(np.ones(target.truth.size, bool))
        return {**super().baselines(mean_rgb, target), "everything": everything}

    def references(self, image: NDArray[np.uint8]) -> dict[str, Annotation]:
        """Otsu's threshold on the grey image, with what is bright and with what is dark as foreground."""
        grey = image.astype(np.float32).mean(axis=2)
        bright = grey > otsu_threshold(grey)
        return {"Otsu's threshold, bright": BinaryMask(bright), "Otsu's threshold, dark": BinaryMask(~bright)}

    def calibrated(self, found: Iterable[tuple[Array, Annotation]]) -> Foreground:
        """The threshold with the best mean IoU on training images, the middle of several: few steps paint too grey."""
        pairs = ((rgb.mean(axis=0), truth.to_array()) for rgb, truth in found)
        scores = [[iou(grey > threshold, mask) for threshold in THRESHOLDS] for grey, mask in pairs]
        means = np.mean(scores, axis=0)
        best = THRESHOLDS[means >= means.max()]
        return replace(self, threshold=float(best[len(best) // 2]))


class MaskEvaluator(MeanEvaluator):
    """IoU, Dice and boundary F1 of every image, then their means."""

    protocol = "mask/mean-iou"
    primary = "iou"
    higher_is_better = True

    def measure(self, prediction: BinaryMask, truth: BinaryMask) -> dict[str, float]:
        found, mask = prediction.mask, truth.mask
        return {"iou": iou(found, mask), "dice": dice(found, mask), "boundary_f1": boundary_f1(found, mask)}
