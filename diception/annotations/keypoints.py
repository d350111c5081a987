"""People as COCO keypoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations.base import Annotation, Size

if TYPE_CHECKING:
    from typing_extensions import Self

COCO_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
COCO_FLIP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


@dataclass(eq=False)
class Keypoints(Annotation):
    """People as 17 COCO joints; the centre of the first pixel is (.5, .5)."""

    kind: ClassVar[str] = "pose"
    suffix: ClassVar[str] = "keypoints.json"
    people: NDArray[np.float32]
    """(N, 17, 3): x, y in pixels and visibility: 0 absent, 1 hidden, 2 seen; absent joints are (0, 0, 0)."""
    size: Size
    areas: NDArray[np.float32]
    """(N,) pixels of each person, as COCO scales its tolerance by; a crop leaves them."""
    scores: NDArray[np.float32] | None = None
    """(N,), of predictions."""
    ignored: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 6), np.float32))
    """(M, 6): left, top, width and height of the boxes of people without marked joints, their area, and 1 for a crowd.
    What is found there counts neither for nor against, as in COCO's evaluation."""

    def __post_init__(self) -> None:
        self.ignored = np.asarray(self.ignored, np.float32)
        if self.ignored.ndim != 2 or self.ignored.shape[1] != 6:
            raise ValueError(f"ignored people have shape {self.ignored.shape}, expected (M, 6)")
        self.people = np.asarray(self.people, np.float32)
        self.areas = np.asarray(self.areas, np.float32)
        self.size = (int(self.size[0]), int(self.size[1]))
        if self.people.ndim != 3 or self.people.shape[1:] != (17, 3):
            raise ValueError(f"people have shape {self.people.shape}, expected (N, 17, 3)")
        if self.scores is not None:
            self.scores = np.asarray(self.scores, np.float32)
        scores = len(self) if self.scores is None else len(self.scores)
        if not len(self) == len(self.areas) == scores:
            raise ValueError(f"{len(self)} people have {len(self.areas)} areas and {scores} scores")

    def __len__(self) -> int:
        return len(self.people)

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N, 17), joints that are marked."""
        return self.people[..., 2] > 0

    def select(self, chosen: NDArray[Any]) -> Self:
        """The people that a boolean (N,) or an array of indices picks."""
        scores = None if self.scores is None else self.scores[chosen]
        return replace(self, people=self.people[chosen], areas=self.areas[chosen], scores=scores)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        """Joints outside become absent; people without any are dropped."""
        rows, columns = self.size
        if min(top, left, height - 1, width - 1) < 0 or top + height > rows or left + width > columns:
            raise ValueError(f"crop {(top, left, height, width)} (top, left, height, width) leaves size {self.size}")
        people = self.people - np.array([left, top, 0], np.float32)
        inside = (people[..., :2] >= 0).all(axis=-1) & (people[..., 0] < width) & (people[..., 1] < height)
        people = np.where((inside & self.visible)[..., None], people, 0)
        ignored = self.ignored - np.array([left, top, 0, 0, 0, 0], np.float32)
        met = (ignored[:, :2] + ignored[:, 2:4] > 0).all(axis=1) & (ignored[:, :2] < (width, height)).all(axis=1)
        cropped = replace(self, people=people, size=(height, width), ignored=ignored[met])
        return cropped.select(np.flatnonzero(cropped.visible.any(axis=1)))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        scale = np.array([width / self.size[1], height / self.size[0], 1], np.float32)
        boxes = np.array([*scale[:2], *scale[:2], scale.prod(), 1], np.float32)
        areas, ignored = self.areas * scale.prod(), self.ignored * boxes
        return replace(self, people=self.people * scale, areas=areas, size=(height, width), ignored=ignored)

    def hflip(self) -> Self:
        people = self.people[:, COCO_FLIP].copy()
        people[..., 0] = np.where(people[..., 2] > 0, self.size[1] - people[..., 0], people[..., 0])
        ignored = self.ignored.copy()
        ignored[:, 0] = self.size[1] - ignored[:, 0] - ignored[:, 2]
        return replace(self, people=people, ignored=ignored)

    def turn(self) -> Self:
        height, width = self.size
        people, ignored = self.people.copy(), self.ignored.copy()
        present = people[..., 2] > 0
        people[..., 0] = np.where(present, self.people[..., 1], 0)
        people[..., 1] = np.where(present, width - self.people[..., 0], 0)
        left, top, box_width, box_height = self.ignored[:, :4].T
        ignored[:, :4] = np.stack([top, width - left - box_width, box_height, box_width], axis=1)
        return replace(self, people=people, ignored=ignored, size=(width, height))

    def to_array(self) -> NDArray[Any]:
        return self.people

    def to_bytes(self) -> bytes:
        """JSON, coordinates to a thousandth of a pixel."""
        content = {
            "size": list(self.size),
            "people": np.round(self.people.astype(np.float64), 3).tolist(),
            "areas": np.round(self.areas.astype(np.float64), 3).tolist(),
            "scores": None if self.scores is None else self.scores.tolist(),
        }
        if len(self.ignored):
            content["ignored"] = np.round(self.ignored.astype(np.float64), 3).tolist()
        return json.dumps(content).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        content = json.loads(data)
        people = np.array(content["people"], np.float32).reshape(-1, 17, 3)
        scores = content.get("scores")
        scores = None if scores is None else np.array(scores, np.float32)
        ignored = np.array(content.get("ignored", []), np.float32).reshape(-1, 6)
        return cls(people, tuple(content["size"]), np.array(content["areas"], np.float32), scores, ignored)
