"""Painting instances in colours and reading them back: shared by the tasks whose annotation is a set of masks."""

from __future__ import annotations

import contextlib
import io
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import optimize

from diception.annotations import InstanceMasks, encode_rle
from diception.colors import GRID_PALETTE, OWN_COLORS, label_components
from diception.tasks.base import Array, Evaluator
from diception.tasks.regions import read_colors, read_palette

READERS = {"position": read_colors, "palette": read_palette, "placed": read_palette, "random": read_colors}
ENCODINGS = tuple(READERS)
FLOOR = 0.3
"""Least value of a channel of the position colours, far from the black of the background."""
APART, ROOM = 0.3, 0.6
"""Position colours push each other away up to the first distance, of K colours to `ROOM / K ** (1 / 3)` at most:
pushed farther, a crowd would be pressed against the faces of the cube."""
ROUNDS, STEP = 20, 0.25
"""How often they push, and which share of what is lacking at a time; from about .5 on crowds begin to swing."""
RIPPLE = 0.02
"""Blue that neighbours in a lattice of alike objects differ in, from which the pushes part them."""


def paint(annotation: InstanceMasks, encoding: str, generator: np.random.Generator) -> Array:
    """(3, H, W) on black, large objects first, so that small ones stay visible."""
    masks = annotation.masks[np.argsort(-annotation.areas, kind="stable")]
    colors = {
        "position": position_colors,
        "palette": lambda m: GRID_PALETTE[palette_codes(m, generator)],
        "placed": lambda m: GRID_PALETTE[placed_codes(m, generator)],
        "random": lambda m: (0.25 + 0.75 * generator.random((len(m), 3))).astype(np.float32),
    }[encoding](masks)
    labels = np.zeros(annotation.size, np.int32)
    for number, mask in enumerate(masks, 1):
        np.copyto(labels, number, where=mask)
    table = np.concatenate([np.zeros((1, 3), np.float32), colors])
    return np.stack([shade[labels] for shade in table.T.copy()])


def read(rgb: Array, encoding: str, category: str = "") -> InstanceMasks:
    """The instances of a painting (3, H, W), all of one category."""
    labels, scores = READERS[encoding](rgb)
    masks = labels == np.arange(1, len(scores) + 1)[:, None, None]
    return InstanceMasks(masks, (category,) * len(masks), scores)


def position_colors(masks: NDArray[np.bool_]) -> Array:
    """(K, 3) colours that say where each mask (K, H, W) is and how large.

    Red is the x of its centroid, green its y, blue the root of its area. Unlike random colours they have one right
    answer, which a regression can learn. Objects that touch are near each other and would look alike, so colours push
    each other away: the left one of two gets less red still, the other more. In a lattice of alike objects the pushes
    are balanced; a ripple along blue, as fine as so many objects would stand, lets them part. No order of the masks
    matters, but of those that are alike in place and size.
    """
    places, count = _places(masks), len(masks)
    colors = FLOOR + (1 - FLOOR) * places
    colors[:, 2] += RIPPLE * np.sin(np.pi * count**0.5 * places[:, :2]).prod(axis=1)
    apart, rank = min(APART, ROOM / max(1, count) ** (1 / 3)), np.argsort(np.lexsort(places.T))
    tie = 1e-6 * np.sign(rank[:, None] - rank)[..., None] * (0, 0, 1)
    for _ in range(ROUNDS):
        gaps = colors[:, None] - colors + tie
        distances = np.maximum(np.linalg.norm(gaps, axis=2, keepdims=True), 1e-9)
        pushes = gaps / distances * np.maximum(apart - distances, 0)
        colors = np.clip(colors + STEP * pushes.sum(axis=1), FLOOR, 1)
    return colors.astype(np.float32)


def _places(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(K, 3) in [0, 1]: x and y of each mask's centroid, and 1.5 times the root of its share of the picture."""
    height, width = masks.shape[1:]
    found = []
    for mask in masks:
        sums = cv2.moments(mask.view(np.uint8), binaryImage=True)
        count = max(sums["m00"], 1.0)
        place = ((sums["m10"] / count + 0.5) / width, (sums["m01"] / count + 0.5) / height)
        found.append((*place, min(1.0, 1.5 * (sums["m00"] / (height * width)) ** 0.5)))
    return np.array(found).reshape(-1, 3)


def palette_codes(masks: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
    """(K,) colours of the palette for masks (K, H, W), at random, each its own as long as they are fewer.

    From as many masks as colours on, those in most pieces get the colours of their own, and the others share the rest,
    of which every piece is read as an object: the next of a colour is the mask farthest from those that have it.
    """
    total, count = len(GRID_PALETTE), len(masks)
    if count < total:
        return generator.permutation(total)[:count]
    codes, shared = np.zeros(count, np.int64), OWN_COLORS + generator.permutation(total - OWN_COLORS)
    order = np.argsort([-label_components(mask)[1] for mask in masks], kind="stable")
    codes[order[:OWN_COLORS]] = generator.permutation(OWN_COLORS)
    places = np.array([np.argwhere(mask).mean(axis=0) if mask.any() else (0, 0) for mask in masks])
    taken: list[list[int]] = [[] for _ in shared]
    for index in order[OWN_COLORS:]:
        gaps = [np.linalg.norm(places[others] - places[index], axis=1) for others in taken]
        chosen = int(np.argmax([gap.min(initial=np.inf) for gap in gaps]))
        taken[chosen].append(int(index))
        codes[index] = shared[chosen]
    return codes


def placed_codes(masks: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
    """(K,) colours of the palette for masks (K, H, W), the nearest to what says where each is and how large.

    So they have one right answer, too. Where several masks want one colour, all get what is nearest to their wishes
    together. From as many masks as colours on they are those of `palette_codes`.
    """
    if len(masks) >= len(GRID_PALETTE):
        return palette_codes(masks, generator)
    wishes = np.square(_places(masks)[:, None] - GRID_PALETTE).sum(axis=2)
    return optimize.linear_sum_assignment(wishes)[1]


class MaskRecords:
    """Predicted and true masks in the form that pycocotools reads, and the matched IoU of panoptic quality."""

    def __init__(self) -> None:
        self.truths: list[dict] = []
        self.found: list[dict] = []
        self.images: list[dict] = []
        self.overlap = 0.0

    def add(self, prediction: InstanceMasks, truth: InstanceMasks) -> None:
        """One image; masks without a category are of the category ""."""
        number = len(self.images) + 1
        self.images.append({"id": number, "height": truth.size[0], "width": truth.size[1]})
        expected, found = encode_rle(truth.masks), encode_rle(prediction.masks)
        for rle, area, category in zip(expected, truth.areas, truth.categories, strict=True):
            self.truths.append({"image_id": number, "segmentation": rle, "area": int(area), "category": category})
        scores = np.ones(len(prediction)) if prediction.scores is None else prediction.scores
        for rle, score, category in zip(found, scores, prediction.categories, strict=True):
            one = {"image_id": number, "segmentation": rle, "score": float(score), "category": category}
            self.found.append(one)
        if expected and found:
            ious = np.asarray(coco_mask.iou(found, expected, [0] * len(expected)))
            # True masks may overlap: each is matched once.
            pairs = optimize.linear_sum_assignment(np.where(ious > 0.5, ious, 0), maximize=True)
            matched = ious[pairs]
            self.overlap += float(matched[matched > 0.5].sum())

    def merge(self, other: MaskRecords) -> None:
        """Adds another's images behind the own ones."""
        shift = len(self.images)
        self.images += [image | {"id": image["id"] + shift} for image in other.images]
        self.truths += [one | {"image_id": one["image_id"] + shift} for one in other.truths]
        self.found += [one | {"image_id": one["image_id"] + shift} for one in other.found]
        self.overlap += other.overlap

    def quality(self) -> float:
        """Panoptic quality without classes: the matched pairs' IoU over matched and half of the unmatched."""
        total = (len(self.truths) + len(self.found)) / 2
        return self.overlap / total if total else float("nan")

    def stats(self, use_categories: bool) -> NDArray:
        """COCOeval's twelve numbers of masks."""
        return coco_stats(self.images, self.truths, self.found, "segm", use_categories)


class RecallEvaluator(Evaluator):
    """Class-agnostic average recall over IoU .5 to .95, by pycocotools, and panoptic quality without classes."""

    protocol = "entity/coco-ar"
    primary = "ar@100"
    higher_is_better = True

    def __init__(self) -> None:
        self.records = MaskRecords()

    def update(self, prediction: InstanceMasks, truth: InstanceMasks) -> None:  # type: ignore[override]
        self.records.add(prediction, truth)

    def merge(self, other: RecallEvaluator) -> None:
        self.records.merge(other.records)

    def compute(self) -> dict[str, float]:
        names = ("ar@1", "ar@10", "ar@100", "ar_small", "ar_medium", "ar_large")
        if not self.records.found or not self.records.truths:
            return dict.fromkeys((*names, "pq"), 0.0 if self.records.truths else float("nan"))
        stats = self.records.stats(use_categories=False)
        return dict(zip(names, stats[6:12].tolist(), strict=True)) | {"pq": self.records.quality()}


def coco_stats(images: list[dict], truths: list[dict], found: list[dict], kind: str, use_categories: bool) -> NDArray:
    """The summary numbers of COCOeval, in its order, without its prints; nan where no truth has that size.

    Truths and predictions name their `category`; without one they are all of the same. The numbers do not depend on
    the order in which the images came, though COCOeval breaks ties of scores by it.
    """
    texts = {image["id"]: "" for image in images}
    for one in [*truths, *found]:
        texts[one["image_id"]] += repr({name: value for name, value in one.items() if name != "image_id"})
    new = {image: number for number, image in enumerate(sorted(texts, key=texts.__getitem__), 1)}
    images = [image | {"id": new[image["id"]]} for image in images]
    truths, found = ([one | {"image_id": new[one["image_id"]]} for one in records] for records in (truths, found))
    names = sorted({one.get("category", "") for one in [*truths, *found]})
    numbers = {name: number for number, name in enumerate(names, 1)}
    truth: Any = COCO()
    annotations = [
        {"iscrowd": 0, "ignore": 0, "id": index, "category_id": numbers[one.get("category", "")], **one}
        for index, one in enumerate(truths, 1)
    ]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes([{"category_id": numbers[one.get("category", "")], **one} for one in found])
        evaluation: Any = COCOeval(truth, results, cast(Any, kind))
        evaluation.params.useCats = int(use_categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)  # COCO's -1 is "undefined"
