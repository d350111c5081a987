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


VOID = 255
"""The label of pixels that nobody has marked, as in PASCAL VOC and Cityscapes: neither trained on nor scored."""


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

    def serves(self, annotation: LabelMap) -> bool:  # type: ignore[override]
        return bool((annotation.labels != VOID).any())

    def encode(self, annotation: LabelMap, generator: np.random.Generator) -> Target:
        """Void is black and does not count.

        Raises:
            ValueError: a label that has no colour.
        """
        labels, marked = annotation.labels, annotation.labels != VOID
        wrong = labels[marked & ((labels < 0) | (labels >= len(self.colors)))]
        if wrong.size:
            allowed = f"0 to {len(self.colors) - 1}, and {VOID} for what is not marked"
            raise ValueError(f"{self.name}: label {wrong[0]}; allowed: {allowed}")
        rgb = self.colors[np.where(marked, labels, 0)].transpose(2, 0, 1)
        return Target(rgb, marked, self.prompt(), annotation)

    def decode(self, rgb: Array) -> LabelMap:
        labels = nearest_color(rgb.transpose(1, 2, 0), self.colors)
        return LabelMap(labels.astype(np.int32), self.labels)

    def evaluator(self) -> LabelEvaluator:
        return LabelEvaluator()

    def visualize(self, annotation: LabelMap, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        masks = [annotation.labels == label for label in range(1, len(self.colors))]
        while masks and not masks[-1].any():
            masks.pop()
        return overlay_masks(masks, image, annotation.size)


class LabelEvaluator(Evaluator):
    """IoU of every label over all marked pixels of all images, then the mean over the labels."""

    protocol = "labels/mean-iou"
    primary = "mean_iou"
    higher_is_better = True

    def __init__(self) -> None:
        self.confusion = np.zeros((len(COLORS), len(COLORS)), np.int64)

    def update(self, prediction: LabelMap, truth: LabelMap) -> None:  # type: ignore[override]
        marked = truth.labels != VOID
        pairs = np.ravel_multi_index((truth.labels[marked], prediction.labels[marked]), self.confusion.shape)
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
