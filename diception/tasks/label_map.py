"""Label maps: a few labels, each with its colour of the palette; for few-shot adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import LabelMap
from diception.colors import GRID_PALETTE, nearest_color, overlay_masks
from diception.tasks.base import Array, Evaluator, Target, Task

COLORS = np.concatenate([np.zeros((1, 3), np.float32), GRID_PALETTE[[25, 17, 5, 1, 19, 7, 23, 8, 2, 11, 14, 21]]])
"""(13, 3): black for the background, then twelve colours of the grid, the farthest apart first."""


@dataclass(frozen=True, kw_only=True)
class LabelMapTask(Task):
    """`labels` names what each number means, background first; empty allows as many as there are colours."""

    type_name: ClassVar[str] = "label_map"
    kind: ClassVar[str] = "labels"
    encodings: ClassVar[tuple[str, ...]] = ("palette",)
    local: ClassVar[bool] = True
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(self.labels) > len(COLORS):
            raise ValueError(f"{self.name}: {len(self.labels)} labels; at most {len(COLORS)}, the background included")

    @property
    def colors(self) -> Array:
        """(n, 3), one for each label."""
        return COLORS[: len(self.labels) or len(COLORS)]

    def encode(self, annotation: LabelMap, generator: np.random.Generator) -> Target:
        if annotation.labels.min() < 0 or annotation.labels.max() >= len(self.colors):
            raise ValueError(f"{self.name}: label {annotation.labels.max()}; allowed: 0 to {len(self.colors) - 1}")
        rgb = self.colors[annotation.labels].transpose(2, 0, 1)
        return Target(rgb, np.ones(annotation.size, bool), self.prompt(), annotation)

    def decode(self, rgb: Array) -> LabelMap:
        labels = nearest_color(rgb.transpose(1, 2, 0), self.colors)
        return LabelMap(labels.astype(np.int32), self.labels)

    def evaluator(self) -> LabelEvaluator:
        return LabelEvaluator()

    def visualize(self, annotation: LabelMap, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        masks = [annotation.labels == label for label in range(1, int(annotation.labels.max()) + 1)]
        return overlay_masks(masks, image, annotation.size)


class LabelEvaluator(Evaluator):
    """IoU of every label over all pixels of all images, then the mean over the labels."""

    protocol = "labels/mean-iou"
    primary = "mean_iou"
    higher_is_better = True

    def __init__(self) -> None:
        self.confusion = np.zeros((len(COLORS), len(COLORS)), np.int64)

    def update(self, prediction: LabelMap, truth: LabelMap) -> None:  # type: ignore[override]
        pairs = np.ravel_multi_index((truth.labels.ravel(), prediction.labels.ravel()), self.confusion.shape)
        self.confusion += np.bincount(pairs, minlength=self.confusion.size).reshape(self.confusion.shape)

    def merge(self, other: LabelEvaluator) -> None:
        self.confusion += other.confusion

    def compute(self) -> dict[str, float]:
        inter = np.diag(self.confusion)
        union = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - inter
        present = self.confusion.sum(axis=1) > 0
        if not present.any():
            return {"mean_iou": float("nan"), "accuracy": float("nan")}
        return {
            "mean_iou": float((inter[present] / union[present]).mean()),
            "accuracy": float(inter.sum() / self.confusion.sum()),
        }
