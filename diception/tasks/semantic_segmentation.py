"""Segmentation by category: the objects of the category named in the prompt, each its own colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import InstanceMasks
from diception.colors import overlay_masks
from diception.metrics import iou
from diception.tasks.base import Array, Evaluator, Target, Task, check_share
from diception.tasks.categories import COCO_CATEGORIES
from diception.tasks.instances import ENCODINGS, MaskRecords, paint, read


@dataclass(frozen=True, kw_only=True)
class SemanticSegmentation(Task):
    """One category of the image is drawn per sample, or, in a share of training samples, one that is not there."""

    type_name: ClassVar[str] = "semantic_segmentation"
    kind: ClassVar[str] = "instances"
    encodings: ClassVar[tuple[str, ...]] = ENCODINGS
    released_encoding: ClassVar[str] = "random"
    takes_category: ClassVar[bool] = True
    negatives: float = 0.0
    """Share of training samples that ask for an absent category: nothing is painted. Without any, a model paints
    something whatever it is asked for. The data must mark every object of the vocabulary's categories."""
    vocabulary: tuple[str, ...] = ()
    """What absent categories are drawn from; empty: COCO's 80."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(f"task {self.name!r}: negatives", self.negatives)
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))

    def measured(self) -> Task:
        """Only categories that are there: their IoU means something."""
        return replace(self, negatives=0.0, vocabulary=())

    def serves(self, annotation: InstanceMasks) -> bool:
        return bool(_present(annotation))

    def encode(self, annotation: InstanceMasks, generator: np.random.Generator) -> Target:
        present = _present(annotation)
        absent = sorted(set(self.vocabulary or COCO_CATEGORIES) - {*annotation.categories, *annotation.unmarked})
        asked = absent if self.negatives and absent and generator.random() < self.negatives else present
        category = asked[int(generator.integers(len(asked)))]
        truth = annotation.of_category(category)
        rgb = paint(truth, self.encoding, generator)
        return Target(rgb, np.ones(annotation.size, bool), self.prompt(category), truth)

    def decode(self, rgb: Array) -> InstanceMasks:
        return read(rgb, self.encoding)

    def evaluator(self) -> CategoryEvaluator:
        return CategoryEvaluator()

    def visualize(self, annotation: InstanceMasks, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        return overlay_masks(list(annotation.masks), image, annotation.size)


def _present(annotation: InstanceMasks) -> list[str]:
    """Categories that can be asked for: something of them is marked, and nothing that is there is left unmarked."""
    shown = {c for c, mask in zip(annotation.categories, annotation.masks, strict=True) if c and mask.any()}
    return sorted(shown - {*annotation.unmarked})


class CategoryEvaluator(Evaluator):
    """IoU of the unions of a category's objects: mean over images, and mean over categories of their means.

    The average precision of the single objects, by pycocotools, is the mean over categories too; since the prompt names
    a category that is there, nothing can be found in an image without it, as in the released code's evaluation.
    """

    protocol = "semantic/iou-per-image"
    primary = "iou"
    higher_is_better = True

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.records = MaskRecords()

    def update(self, prediction: InstanceMasks, truth: InstanceMasks) -> None:  # type: ignore[override]
        category = truth.categories[0]
        self.values.setdefault(category, []).append(iou(prediction.union().mask, truth.union().mask))
        self.records.add(replace(prediction, categories=(category,) * len(prediction)), truth)

    def merge(self, other: CategoryEvaluator) -> None:
        for category, values in other.values.items():
            self.values.setdefault(category, []).extend(values)
        self.records.merge(other.records)

    def compute(self) -> dict[str, float]:
        if not self.values:
            return dict.fromkeys(("iou", "iou_per_category", "ap", "ap50", "ap75"), float("nan"))
        everything = [value for values in self.values.values() for value in values]
        means = [float(np.mean(values)) for values in self.values.values()]
        stats = self.records.stats(use_categories=True)[:3] if self.records.found else np.zeros(3)
        precision = dict(zip(("ap", "ap50", "ap75"), stats.tolist(), strict=True))
        return {"iou": float(np.mean(everything)), "iou_per_category": float(np.mean(means)), **precision}
