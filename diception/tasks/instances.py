"""Painting instances in colours and reading them back: shared by the tasks whose annotation is a set of masks."""

from __future__ import annotations

import contextlib
import io
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from diception.annotations import InstanceMasks, encode_rle
from diception.colors import GRID_PALETTE
from diception.tasks.base import Array, Evaluator
from diception.tasks.regions import read_colors, read_palette

READERS = {"position": read_colors, "palette": read_palette, "random": read_colors}
ENCODINGS = tuple(READERS)
FLOOR = 0.3
"""Least value of a channel of the position colours, far from the black of the background."""
APART = 0.12
"""Position colours of one picture keep this distance."""


def paint(annotation: InstanceMasks, encoding: str, generator: np.random.Generator) -> Array:
    """(3, H, W) on black, large objects first, so that small ones stay visible."""
    order = np.argsort(-annotation.masks.sum(axis=(1, 2)), kind="stable")
    masks = annotation.masks[order]
    colors = {
        "position": position_colors,
        "palette": lambda m: GRID_PALETTE[_distinct(len(m), generator)],
        "random": lambda m: (0.25 + 0.75 * generator.random((len(m), 3))).astype(np.float32),
    }[encoding](masks)
    rgb = np.zeros((3, *annotation.size), np.float32)
    for mask, color in zip(masks, colors, strict=True):
        rgb[:, mask] = color[:, None]
    return rgb


def read(rgb: Array, encoding: str, category: str = "") -> InstanceMasks:
    """The instances of a painting (3, H, W), all of one category."""
    labels, scores = READERS[encoding](rgb)
    masks = labels == np.arange(1, len(scores) + 1)[:, None, None]
    return InstanceMasks(masks, (category,) * len(masks), scores)


def position_colors(masks: NDArray[np.bool_]) -> Array:
    """(K, 3) colours that say where each mask (K, H, W) is and how large.

    Red is the x of its centroid, green its y, blue the root of its area. Unlike random colours they have one right
    answer, which a regression can learn. Where two objects would look alike, the later one moves along blue.
    """
    height, width = masks.shape[1:]
    colors: list[Array] = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        area = len(rows) / (height * width)
        place = ((columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height) if len(rows) else (0.5, 0.5)
        values = np.array([*place, min(1.0, 1.5 * area**0.5)])
        colors.append(_moved_apart((FLOOR + (1 - FLOOR) * values).astype(np.float32), colors))
    return np.array(colors, np.float32).reshape(-1, 3)


def _moved_apart(color: Array, others: list[Array]) -> Array:
    shifts = [0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45, 0.6, -0.6]
    moved = [color + np.array([0, 0, s], np.float32) for s in shifts]
    allowed = [c for c in moved if FLOOR - 1e-6 <= c[2] <= 1 + 1e-6]
    distances = [min((float(np.linalg.norm(c - other)) for other in others), default=np.inf) for c in allowed]
    return next((c for c, d in zip(allowed, distances, strict=True) if d >= APART), allowed[int(np.argmax(distances))])


def _distinct(count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`count` colours of the palette, each used once before any is used twice."""
    rounds = -(-count // len(GRID_PALETTE)) or 1
    return np.concatenate([generator.permutation(len(GRID_PALETTE)) for _ in range(rounds)])[:count]


class RecallEvaluator(Evaluator):
    """Class-agnostic average recall over IoU .5 to .95, by pycocotools."""

    protocol = "entity/coco-ar"
    primary = "ar@100"
    higher_is_better = True

    def __init__(self) -> None:
        self.truths: list[dict] = []
        self.found: list[dict] = []
        self.images: list[dict] = []

    def update(self, prediction: InstanceMasks, truth: InstanceMasks) -> None:  # type: ignore[override]
        image = {"id": len(self.images) + 1, "height": truth.size[0], "width": truth.size[1]}
        self.images.append(image)
        for rle, area in zip(encode_rle(truth.masks), truth.masks.sum(axis=(1, 2)), strict=True):
            self.truths.append({"image_id": image["id"], "segmentation": rle, "area": int(area)})
        scores = np.ones(len(prediction)) if prediction.scores is None else prediction.scores
        for rle, score in zip(encode_rle(prediction.masks), scores, strict=True):
            self.found.append({"image_id": image["id"], "segmentation": rle, "score": float(score)})

    def merge(self, other: RecallEvaluator) -> None:
        shift = len(self.images)
        self.images += [image | {"id": image["id"] + shift} for image in other.images]
        self.truths += [one | {"image_id": one["image_id"] + shift} for one in other.truths]
        self.found += [one | {"image_id": one["image_id"] + shift} for one in other.found]

    def compute(self) -> dict[str, float]:
        names = ("ar@1", "ar@10", "ar@100", "ar_small", "ar_medium", "ar_large")
        if not self.found or not self.truths:
            return dict.fromkeys(names, 0.0 if self.truths else float("nan"))
        stats = coco_stats(self.images, self.truths, self.found, "segm", use_categories=False)
        return dict(zip(names, stats[6:12].tolist(), strict=True))


def coco_stats(images: list[dict], truths: list[dict], found: list[dict], kind: str, use_categories: bool) -> NDArray:
    """The summary numbers of COCOeval, in its order, without its prints; nan where no truth has that size."""
    truth: Any = COCO()
    common = {"category_id": 1, "iscrowd": 0, "ignore": 0}
    annotations = [common | one | {"id": index} for index, one in enumerate(truths, 1)]
    truth.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes([{"category_id": 1} | one for one in found])
        evaluation: Any = COCOeval(truth, results, cast(Any, kind))
        evaluation.params.useCats = int(use_categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)  # COCO's -1 is "undefined"
