"""Painting skeletons in colours, and reading joints and people back from a painting."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment

from diception.annotations import COCO_KEYPOINTS, COCO_SKELETON, Keypoints
from diception.colors import DISPLAY, label_components, median3, nearest_color
from diception.tasks.base import Array

JOINTS = len(COCO_KEYPOINTS)
FACE = 5
"""The first five keypoints are the face's."""
BRIGHT = [c for c in product((1, 0, 0.5), repeat=3) if max(c) == 1 and c != (1, 1, 1)]
"""Joint colours: one channel is full. Neighbours in the list share the first channel, opposite sides do not."""
JOINT_COLORS = np.array(BRIGHT[:JOINTS], np.float32)
LIMB_COLORS = np.array([(0, 0.45, 0.45), (0.45, 0, 0.45), (0.35, 0.35, 0.35)], np.float32)
"""Of the left side, the right side, and what crosses the middle; dim, so that no limb looks like a joint."""
RED = np.array([1, 0, 0], np.float32)
REACH = 0.3
"""A pixel farther than this from its nearest colour is not read."""
LEAST_SUPPORT = 0.6
"""Share of a limb that must be painted for it to join two joints."""
LEAST_JOINTS = 3
"""A person with fewer joints is not reported."""


@dataclass
class Joint:
    """A joint found in a painting."""

    kind: int
    place: Array
    """(2,) x, y in pixels."""
    score: float


def radii(annotation: Keypoints) -> Array:
    """(N,) joint radius in pixels: it grows with the person, and never falls below what the autoencoder keeps."""
    side = float(np.sqrt(annotation.size[0] * annotation.size[1]))
    low, high = max(2.0, 0.009 * side), max(3.2, 0.021 * side)
    spans = []
    for person in annotation.people:
        places = person[person[:, 2] > 0, :2]
        spans.append(np.sqrt(np.prod(np.ptp(places, axis=0))) if len(places) > 1 else 0.0)
    return np.clip(0.055 * np.array(spans, np.float32), low, high)


def paint_skeletons(annotation: Keypoints, typed: bool) -> Array:
    """(3, H, W) on black, far (small) people first; `typed` gives each joint its colour, else all are red."""
    rgb = np.zeros((3, *annotation.size), np.float32)
    sizes = radii(annotation)
    for index in np.argsort(annotation.areas, kind="stable"):
        person, radius = annotation.people[index], float(sizes[index])
        for a, b in COCO_SKELETON:
            if person[a, 2] > 0 and person[b, 2] > 0:
                _capsule(rgb, person[a, :2], person[b, :2], 0.55 * radius, LIMB_COLORS[_side(a, b)])
        for joint in reversed(range(JOINTS)):
            if person[joint, 2] > 0:
                color = JOINT_COLORS[joint] if typed else RED
                _capsule(rgb, person[joint, :2], person[joint, :2], radius * (0.7 if joint < FACE else 1), color)
    return rgb


def read_typed(rgb: Array) -> Keypoints:
    """People of a painting (3, H, W): joints by colour, joined along painted limbs."""
    size = (rgb.shape[1], rgb.shape[2])
    pixels = median3(rgb).transpose(1, 2, 0)
    palette = np.concatenate([np.zeros((1, 3), np.float32), LIMB_COLORS, JOINT_COLORS])
    labels = nearest_color(pixels, palette)
    labels[np.linalg.norm(pixels - palette[labels], axis=-1) > REACH] = 0
    joints = _find_joints(labels - len(LIMB_COLORS) - 1, pixels, JOINT_COLORS)
    people = _join(joints, pixels.max(axis=-1) > 0.2)
    return _keypoints(people, size)


def read_released(rgb: Array) -> Keypoints:
    """Red joints of a painting (3, H, W). Their type is not painted: each is one "person" with one joint, its nose."""
    pixels = rgb.transpose(1, 2, 0)
    red = np.linalg.norm(pixels - RED, axis=-1) < 0.5
    joints = _find_joints(np.where(red, 0, -1), pixels, RED[None])
    return _keypoints([{0: joint} for joint in joints], (rgb.shape[1], rgb.shape[2]))


def draw_people(annotation: Keypoints, image: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """(H, W, 3) skeletons over an image; people in different colours."""
    height, width = annotation.size
    faded = np.full((height, width, 3), 30, np.uint8) if image is None else (image * 0.75).astype(np.uint8)
    scale = max(1, round(384 / max(height, width)))
    canvas = Image.fromarray(faded).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(0.011 * max(canvas.size)))
    for index, person in enumerate(annotation.people):
        color = tuple(int(v) for v in DISPLAY[index % len(DISPLAY)])
        places = [tuple(float(v) * scale for v in joint[:2]) for joint in person]
        for a, b in COCO_SKELETON:
            if person[a, 2] > 0 and person[b, 2] > 0:
                pen.line([places[a], places[b]], fill=color, width=line)
        for (x, y), seen in zip(places, person[:, 2], strict=True):
            if seen > 0:
                pen.ellipse((x - line, y - line, x + line, y + line), fill=color, outline="white")
    return np.asarray(canvas.resize((width, height), Image.Resampling.LANCZOS))


def _side(a: int, b: int) -> int:
    """0 left (odd keypoints), 1 right, 2 across."""
    return 2 if a % 2 != b % 2 else 1 - a % 2


def _capsule(rgb: Array, start: Array, end: Array, radius: float, color: Array) -> None:
    """Paints all pixels within `radius` of a segment; only its window of the picture is touched."""
    low = np.floor(np.minimum(start, end) - radius - 1).astype(int).clip(0)
    high = np.ceil(np.maximum(start, end) + radius + 1).astype(int)
    window = rgb[:, low[1] : high[1], low[0] : high[0]]
    y, x = np.mgrid[: window.shape[1], : window.shape[2]].astype(np.float32) + 0.5
    x, y = x + low[0] - start[0], y + low[1] - start[1]
    along = end - start
    share = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-6), 0, 1)
    inside = (x - share * along[0]) ** 2 + (y - share * along[1]) ** 2 <= radius**2
    window[:, inside] = color[:, None]


def _find_joints(labels: NDArray[np.int64], pixels: Array, colors: Array) -> list[Joint]:
    """Connected regions of one joint colour; `labels` (H, W) is the joint's kind, negative elsewhere."""
    least = max(3.0, 1.2e-4 * labels.size)
    joints = []
    for kind in np.unique(labels[labels >= 0]):
        regions, count = label_components(labels == kind)
        areas = np.bincount(regions.ravel(), minlength=count + 1)
        for region in range(1, count + 1):
            if areas[region] >= least:
                rows, columns = np.nonzero(regions == region)
                miss = np.linalg.norm(pixels[rows, columns] - colors[kind], axis=1)
                place = np.array([columns.mean() + 0.5, rows.mean() + 0.5], np.float32)
                joints.append(Joint(int(kind), place, float(np.exp(-np.square(miss / 0.25)).mean())))
    return joints


def _join(joints: list[Joint], painted: NDArray[np.bool_]) -> list[dict[int, Joint]]:
    """Groups joints into people: the best pairs along painted limbs first, one joint of a kind per person."""
    owner = list(range(len(joints)))
    people: dict[int, dict[int, Joint]] = {i: {joint.kind: joint} for i, joint in enumerate(joints)}
    links = []
    for a, b in COCO_SKELETON:
        ones = [i for i, joint in enumerate(joints) if joint.kind == a]
        others = [i for i, joint in enumerate(joints) if joint.kind == b]
        if not ones or not others:
            continue
        support = np.array([[_support(joints[i].place, joints[j].place, painted) for j in others] for i in ones])
        for row, column in zip(*linear_sum_assignment(-support), strict=True):
            if support[row, column] >= LEAST_SUPPORT:
                links.append((float(support[row, column]), ones[row], others[column]))
    for _, i, j in sorted(links, reverse=True):
        one, other = owner[i], owner[j]
        if one != other and not people[one].keys() & people[other].keys():
            people[one] |= people.pop(other)
            owner = [one if o == other else o for o in owner]
    return [person for person in people.values() if len(person) >= LEAST_JOINTS]


def _support(start: Array, end: Array, painted: NDArray[np.bool_]) -> float:
    """Share of the segment that is painted, a little less for longer ones, so that near joints win."""
    distance = float(np.linalg.norm(end - start))
    steps = np.linspace(0, 1, max(3, int(distance)))[:, None]
    places = (start + steps * (end - start)).astype(int)
    rows = places[:, 1].clip(0, painted.shape[0] - 1)
    columns = places[:, 0].clip(0, painted.shape[1] - 1)
    return float(painted[rows, columns].mean()) - 0.3 * distance / max(painted.shape)


def _keypoints(people: list[dict[int, Joint]], size: tuple[int, int]) -> Keypoints:
    array = np.zeros((len(people), JOINTS, 3), np.float32)
    for row, person in zip(array, people, strict=True):
        for kind, joint in person.items():
            row[kind] = (*joint.place, 2)
    areas = np.array([_area(row) for row in array], np.float32)
    scores = np.array([sum(j.score for j in person.values()) / JOINTS for person in people], np.float32)
    return Keypoints(array, size, areas, scores)


def _area(person: Array) -> float:
    places = person[person[:, 2] > 0, :2]
    return float(max(1.0, np.prod(np.ptp(places, axis=0)) * 0.6)) if len(places) > 1 else 1.0
