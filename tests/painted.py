"""Annotations of every kind that are the same in every run, and how a task paints and scores them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from diception.annotations import (
    Annotation,
    BinaryMask,
    DepthMap,
    InstanceMasks,
    Keypoints,
    LabelMap,
    NormalMap,
    RGBImage,
)
from diception.tasks import Target, Task

SIZE = 128


def discs(seed: int, count: int) -> np.ndarray:
    """(count, SIZE, SIZE) masks that do not overlap, larger than 100 pixels, one of them cut in two."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(9)[:count]
    rows, columns = np.mgrid[:SIZE, :SIZE]
    radii, shift = rng.uniform(9, 17, count), rng.uniform(-3, 3, (2, count))
    y, x = 22 + 42 * (cells // 3) + shift[0], 22 + 42 * (cells % 3) + shift[1]
    masks = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2 < radii[:, None, None] ** 2
    masks[0] &= np.abs(columns - x[0]) > 2
    return masks


def person(x: float, y: float, height: float) -> np.ndarray:
    """(17, 3) a standing figure with its arms out, seen from the front."""
    left = [
        (0.02, -0.46),
        (0.05, -0.44),
        (0.09, -0.28),
        (0.22, -0.26),
        (0.34, -0.2),
        (0.07, 0.02),
        (0.1, 0.25),
        (0.1, 0.48),
    ]
    joints = np.zeros((17, 3), np.float32)
    joints[0] = (0, -0.42, 2)
    for index, (across, down) in enumerate(left):
        joints[1 + 2 * index], joints[2 + 2 * index] = (across, down, 2), (-across, down, 2)
    return joints * [height, height, 1] + np.array([x, y, 0], np.float32)


def make(kind: str, seed: int = 0) -> Annotation:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, SIZE, SIZE)), (0, 9, 9)) * 20
    hole = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 8) > 0.04
    masks = discs(seed, 5)
    people = np.stack([person(34, 66, 88), person(96, 70, 82)])
    return {
        "depth": lambda: DepthMap(np.where(hole, 0, np.exp(smooth[0]) + 1)),
        "normal": lambda: NormalMap(np.where(hole, 0, smooth / np.linalg.norm(smooth, axis=0))),
        "mask": lambda: BinaryMask(masks[:3].any(axis=0)),
        "instances": lambda: InstanceMasks(masks, ("cat", "dog", "cat", "dog", "cat")),
        "pose": lambda: Keypoints(people, (SIZE, SIZE), np.array([2600, 2000])),
        "labels": lambda: LabelMap(masks[1] + 2 * masks[2] + 5 * masks[3]),
        "image": lambda: RGBImage(rng.random((3, SIZE, SIZE))),
    }[kind]()


def encode(task: Task, annotation: Annotation, seed: int = 3) -> Target:
    return task.encode(annotation, np.random.default_rng(seed))


def score(task: Task, pairs: list[tuple[Annotation, Annotation]]) -> float:
    evaluator = task.evaluator()
    for prediction, truth in pairs:
        evaluator.update(prediction, truth)
    return evaluator.compute()[evaluator.primary]
