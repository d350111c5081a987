"""Point-prompted segmentation: one to five points inside an object, its mask painted white on black."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from diception.annotations import Annotation, BinaryMask, InstanceMasks
from diception.colors import overlay_mask
from diception.metrics import iou
from diception.tasks.base import MAX_POINTS, Array, MeanEvaluator, Target, Task, check_share, spread

THRESHOLD = 0.5
LEAST_SHARE = 0.002
"""An object smaller than this share of the image is drawn only where there is no larger one."""
DISC_SHARE = 0.03
"""Area of the disc that the baseline guesses around the points: about that of a usual object."""


@dataclass(frozen=True, kw_only=True)
class PointSegmentation(Task):
    """One instance is drawn per sample, with its points."""

    type_name: ClassVar[str] = "point_segmentation"
    kind: ClassVar[str] = "instances"
    encodings: ClassVar[tuple[str, ...]] = ("mask",)
    released_encoding: ClassVar[str] = "mask"
    takes_points: ClassVar[bool] = True
    num_points: int | None = None
    """A fixed number of points, for evaluation; None draws 1 to 5."""
    negatives: float = 0.0
    """Share of training samples whose points lie outside of all masks: nothing is painted. For data whose masks cover
    all that points may mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_points is not None and not 1 <= self.num_points <= MAX_POINTS:
            raise ValueError(f"num_points is {self.num_points}; allowed: 1 to {MAX_POINTS}")
        check_share(f"task {self.name!r}: negatives", self.negatives)

    def measured(self) -> Task:
        """Only points in objects."""
        return replace(self, negatives=0.0)

    def serves(self, annotation: InstanceMasks) -> bool:
        return bool(annotation.masks.any())

    def encode(self, annotation: InstanceMasks, generator: np.random.Generator) -> Target:
        shares = annotation.masks.mean(axis=(1, 2))
        large = np.flatnonzero(shares >= LEAST_SHARE)
        chosen = int(generator.choice(large)) if len(large) else int(shares.argmax())
        mask, category = annotation.masks[chosen], annotation.categories[chosen] or None
        count = int(generator.integers(1, MAX_POINTS + 1)) if self.num_points is None else self.num_points
        points = np.zeros((MAX_POINTS, 2), np.float32)
        outside = np.asarray(~annotation.masks.any(axis=0))
        if self.negatives and outside.any() and generator.random() < self.negatives:
            points[:count] = draw_points(outside, count, generator)
            mask, category = np.zeros_like(mask), None
        else:
            points[:count] = draw_points(mask, count, generator)
        truth = BinaryMask(mask, category)
        used = np.arange(MAX_POINTS) < count
        return Target(spread(mask), np.ones(mask.shape, bool), self.prompt(), truth, points, used)

    def decode(self, rgb: Array) -> BinaryMask:
        return BinaryMask(rgb.mean(axis=0) > THRESHOLD)

    def evaluator(self) -> PointEvaluator:
        return PointEvaluator(self.num_points)

    def visualize(self, annotation: BinaryMask, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        return overlay_mask(annotation.mask, image)

    def variants(self) -> list[Task]:
        """One, three and five points, unless the number is fixed."""
        return [replace(self, num_points=count) for count in (1, 3, 5)] if self.num_points is None else [self]

    def baselines(self, mean_rgb: Array, target: Target) -> dict[str, Annotation]:
        """A disc of the usual size around the mean of the points."""
        height, width = target.valid.shape
        x, y = target.points[target.point_mask].mean(axis=0)
        rows, columns = np.mgrid[:height, :width]
        distance = ((columns + 0.5) / width - x) ** 2 + ((rows + 0.5) / height - y) ** 2
        return {"disc around the points": BinaryMask(distance < DISC_SHARE / np.pi)}


def draw_points(mask: NDArray[np.bool_], count: int, generator: np.random.Generator) -> Array:
    """(count, 2) points (x, y) in [0, 1] inside a mask (H, W), away from its border where it has an inside."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    window = np.pad(mask[top : top + height, left : left + width], 1).view(np.uint8)
    depth = cv2.distanceTransform(window, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    rows, columns = np.nonzero(depth >= min(2.0, float(depth.max())))
    rows, columns = rows + top, columns + left
    chosen = generator.integers(len(rows), size=count)
    size = np.array(mask.shape[::-1], np.float32)
    return (np.stack([columns[chosen], rows[chosen]], axis=1) + 0.5).astype(np.float32) / size


class PointEvaluator(MeanEvaluator):
    """IoU of every mask, then the mean; the number of points is part of the protocol."""

    primary = "iou"
    higher_is_better = True

    def __init__(self, num_points: int | None):
        super().__init__()
        points = "1-5 points" if num_points is None else f"{num_points} point{'s' * (num_points > 1)}"
        self.protocol = f"point/mean-iou, {points}"

    def measure(self, prediction: BinaryMask, truth: BinaryMask) -> dict[str, float]:
        return {"iou": iou(prediction.mask, truth.mask)}
