"""Pose: people's skeletons painted on black, every joint type in its own colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diception.annotations import Keypoints
from diception.tasks.base import Array, Evaluator, Target, Task
from diception.tasks.instances import coco_stats
from diception.tasks.joints import read_released, read_typed
from diception.tasks.skeletons import draw_people, paint_skeletons

MARGIN = 16
"""Pixels, two latent cells: what is painted around a joint ends well before."""


@dataclass(frozen=True, kw_only=True)
class Pose(Task):
    """Encodings: `typed` (17 joint colours, dim limbs), `released` (all joints red; decodes to single joints)."""

    type_name: ClassVar[str] = "pose"
    kind: ClassVar[str] = "pose"
    encodings: ClassVar[tuple[str, ...]] = ("typed", "released")
    released_encoding: ClassVar[str] = "released"

    background: float = 1.0
    """What a pixel far from all people counts in the loss. People are a fifth of a picture and less: below 1, a small
    model spends its steps on them and not on black."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.background <= 1:
            raise ValueError(f"task {self.name!r}: background is {self.background}; allowed: above 0 and at most 1")

    def measured(self) -> Task:
        """Every pixel counts."""
        return replace(self, background=1.0)

    def serves(self, annotation: Keypoints) -> bool:
        return bool((annotation.people[..., 2] > 0).any())

    def encode(self, annotation: Keypoints, generator: np.random.Generator) -> Target:
        rgb = paint_skeletons(annotation, typed=self.encoding == "typed")
        everywhere = np.ones(annotation.size, bool)
        valid = everywhere if self.background == 1 else _near(annotation, self.background)
        return Target(rgb, valid, self.prompt(), annotation)

    def decode(self, rgb: Array) -> Keypoints:
        return read_typed(rgb) if self.encoding == "typed" else read_released(rgb)

    def evaluator(self) -> PoseEvaluator:
        return PoseEvaluator()

    def evaluators(self) -> list[Evaluator]:
        """Average precision without and with the truth's help."""
        return [PoseEvaluator(), OraclePoseEvaluator()]

    def visualize(self, annotation: Keypoints, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        return draw_people(annotation, image)


class PoseEvaluator(Evaluator):
    """OKS average precision by pycocotools; keypoints are named by the prediction, never by the truth."""

    protocol = "pose/coco-oks"
    primary = "ap"
    higher_is_better = True

    def __init__(self) -> None:
        self.images: list[dict] = []
        self.truths: list[dict] = []
        self.found: list[dict] = []

    def update(self, prediction: Keypoints, truth: Keypoints) -> None:  # type: ignore[override]
        number = len(self.images) + 1
        self.images.append({"id": number, "height": truth.size[0], "width": truth.size[1]})
        for person, area in zip(truth.people, truth.areas, strict=True):
            labelled = int((person[:, 2] > 0).sum())
            if labelled:
                record = {"keypoints": person.ravel().tolist(), "num_keypoints": labelled, "area": float(area)}
                self.truths.append({"image_id": number, "bbox": _box(person), **record})
        for *box, area, crowd in truth.ignored.tolist():
            record = {"keypoints": [0.0] * 51, "num_keypoints": 0, "area": area, "iscrowd": int(crowd)}
            self.truths.append({"image_id": number, "bbox": box, **record})
        scores = np.ones(len(prediction)) if prediction.scores is None else prediction.scores
        for person, score in zip(prediction.people, scores, strict=True):
            self.found.append({"image_id": number, "keypoints": person.ravel().tolist(), "score": float(score)})

    def merge(self, other: PoseEvaluator) -> None:
        shift = len(self.images)
        self.images += [image | {"id": image["id"] + shift} for image in other.images]
        self.truths += [one | {"image_id": one["image_id"] + shift} for one in other.truths]
        self.found += [one | {"image_id": one["image_id"] + shift} for one in other.found]

    def compute(self) -> dict[str, float]:
        names = ("ap", "ap50", "ap75", "ar")
        if not self.found or not self.truths:
            return dict.fromkeys(names, 0.0 if self.truths else float("nan"))
        stats = coco_stats(self.images, self.truths, self.found, "keypoints", use_categories=True)
        return {name: float(stats[index]) for name, index in zip(names, (0, 1, 2, 5), strict=True)}


class OraclePoseEvaluator(PoseEvaluator):
    """The same after the ground truth has named and grouped the joints that were found.

    This is how the paper scores a painting whose joints are all of one colour (its Algorithm 1). It tells what a
    painting holds, not what can be read from it, and compares with no number of the honest protocol.
    """

    protocol = "pose/diception-oracle"

    def update(self, prediction: Keypoints, truth: Keypoints) -> None:  # type: ignore[override]
        super().update(oracle(prediction, truth), truth)


def oracle(prediction: Keypoints, truth: Keypoints) -> Keypoints:
    """The predicted joints, whatever their types and people, dealt out to the nearest true ones, each once."""
    places = prediction.people[prediction.people[..., 2] > 1][:, :2]  # found, not inferred
    wanted = np.argwhere(truth.visible)
    people = np.zeros_like(truth.people)
    if len(places):
        distance = np.linalg.norm(truth.people[truth.visible][:, None, :2] - places, axis=-1)
        for row, column in zip(*linear_sum_assignment(distance), strict=True):
            people[tuple(wanted[row])] = (*places[column], 2)
    return Keypoints(people, truth.size, truth.areas, np.ones(len(people), np.float32))


def _near(annotation: Keypoints, far: float) -> Array:
    """(H, W) weights: 1 in the boxes around people, `MARGIN` pixels wider than their joints, `far` elsewhere."""
    weights = np.full(annotation.size, far, np.float32)
    for person in annotation.people:
        if (person[:, 2] > 0).any():
            left, top, width, height = _box(person)
            rows = slice(max(0, int(top) - MARGIN), int(top + height) + MARGIN)
            weights[rows, max(0, int(left) - MARGIN) : int(left + width) + MARGIN] = 1
    return weights


def _box(person: Array) -> list[float]:
    """[x, y, width, height] around the labelled keypoints (17, 3)."""
    places = person[person[:, 2] > 0, :2]
    low, high = places.min(axis=0), places.max(axis=0)
    return [*map(float, low), *map(float, high - low)]
