"""Painting skeletons in colours, and drawing them for people."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diception.annotations import COCO_KEYPOINTS, COCO_SKELETON, Keypoints
from diception.colors import DISPLAY
from diception.tasks.base import Array

JOINTS = len(COCO_KEYPOINTS)
FACE = 5
"""The first five keypoints are the face's."""
BRIGHT = [c for c in product((1, 0, 0.5), repeat=3) if max(c) == 1 and c != (1, 1, 1)]
"""Joint colours: one channel is full. Neighbours in the list share the first channel, opposite sides do not."""
JOINT_COLORS = np.array(BRIGHT[:JOINTS], np.float32)
FACE_SHARE = 0.7
"""Joints of the face are painted with this share of the radius."""
LIMB_COLORS = np.array([(0, 0.45, 0.45), (0.45, 0, 0.45), (0.35, 0.35, 0.35), (0.45, 0.45, 0)], np.float32)
"""Of the left side, the right side, what crosses the middle, and ties; dim, so that no limb looks like a joint."""
TIE = 3
"""The colour of what is no limb: it ties the parts of a person together whose joints between are absent."""
RED = np.array([1, 0, 0], np.float32)


def radii(annotation: Keypoints) -> Array:
    """(N,) joint radius in pixels: it grows with the person, and never falls below what the autoencoder keeps."""
    side = float(np.sqrt(annotation.size[0] * annotation.size[1]))
    low, high = max(3.4, 0.009 * side), max(5.4, 0.021 * side)
    spans = []
    for person in annotation.people:
        places = person[person[:, 2] > 0, :2]
        spans.append(np.sqrt(np.prod(np.ptp(places, axis=0))) if len(places) > 1 else 0.0)
    return np.clip(0.07 * np.array(spans, np.float32), low, high)


def paint_skeletons(annotation: Keypoints, typed: bool) -> Array:
    """(3, H, W) on black, far (small) people first; `typed` gives each joint its colour, else all are red.

    A typed person is one connected figure: parts that no limb joins, as the elbow between is hidden, are tied at their
    nearest joints. Where two joints of a person overlap, each keeps the pixels that are nearer to it (in radii), so
    that none hides another and all can be read back.
    """
    rgb = np.zeros((3, *annotation.size), np.float32)
    sizes = radii(annotation)
    colors = JOINT_COLORS if typed else np.broadcast_to(RED, JOINT_COLORS.shape)
    for index in np.argsort(annotation.areas, kind="stable"):
        person, radius = annotation.people[index], float(sizes[index])
        limbs = [(a, b, limb_side(a, b)) for a, b in COCO_SKELETON if person[a, 2] > 0 and person[b, 2] > 0]
        for a, b, side in [*((a, b, TIE) for a, b in (_ties(person) if typed else [])), *limbs]:
            _capsule(rgb, person[a, :2], person[b, :2], 0.55 * radius, LIMB_COLORS[side])
        _joints(rgb, person, radius, colors)
    return rgb


def draw_people(annotation: Keypoints, image: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """(H, W, 3) skeletons over an image; people in different colours, hidden joints hollow and their limbs thin."""
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
                sure = min(person[a, 2], person[b, 2]) > 1
                pen.line([places[a], places[b]], fill=color, width=line if sure else max(1, line // 3))
        for (x, y), seen in zip(places, person[:, 2], strict=True):
            if seen > 0:
                box, inside = (x - line, y - line, x + line, y + line), color if seen > 1 else "black"
                pen.ellipse(box, fill=inside, outline="white" if seen > 1 else color)
    return np.asarray(canvas.resize((width, height), Image.Resampling.LANCZOS))


def limb_side(a: int, b: int) -> int:
    """Row of LIMB_COLORS: 0 left (odd keypoints), 1 right, 2 across."""
    return 2 if a % 2 != b % 2 else 1 - a % 2


def _ties(person: Array) -> list[tuple[int, int]]:
    """The shortest pairs of present joints (17, 3) that make one figure of what the limbs leave apart."""
    kinds = [int(kind) for kind in np.flatnonzero(person[:, 2] > 0)]
    part = {kind: kind for kind in kinds}
    pairs = sorted(combinations(kinds, 2), key=lambda pair: float(np.hypot(*(person[pair[0]] - person[pair[1]])[:2])))
    ties = []
    for a, b in (*COCO_SKELETON, *pairs):
        if a in part and b in part and part[a] != part[b]:
            ties += [] if (a, b) in COCO_SKELETON else [(a, b)]
            part = {kind: part[a] if own == part[b] else own for kind, own in part.items()}
    return ties


def _capsule(rgb: Array, start: Array, end: Array, radius: float, color: Array) -> None:
    """Paints all pixels within `radius` of a segment; only its window of the picture is touched."""
    low = np.floor(np.minimum(start, end) - radius - 1).astype(int).clip(0)
    high = np.ceil(np.maximum(start, end) + radius + 1).astype(int)
    window = rgb[:, low[1] : high[1], low[0] : high[0]]
    y, x = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in window.shape[1:])
    x, y = (x + low[0] - start[0])[None], (y + low[1] - start[1])[:, None]
    along = end - start
    share = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-6), 0, 1)
    inside = (x - share * along[0]) ** 2 + (y - share * along[1]) ** 2 <= radius**2
    window[:, inside] = color[:, None]


def _joints(rgb: Array, person: Array, radius: float, colors: Array) -> None:
    """Paints a person's joints (17, 3), those of the face smaller."""
    nearest = np.full(rgb.shape[1:], np.inf, np.float32)
    for kind in np.flatnonzero(person[:, 2] > 0):
        (x, y), limit = person[kind, :2], radius * (FACE_SHARE if kind < FACE else 1)
        left, top = max(0, int(x - limit)), max(0, int(y - limit))
        box = slice(top, max(top, int(y + limit) + 1)), slice(left, max(left, int(x + limit) + 1))
        before, window = nearest[box], rgb[:, box[0], box[1]]
        rows, columns = np.ogrid[: before.shape[0], : before.shape[1]]
        distance = np.hypot(columns + (left + 0.5 - x), rows + (top + 0.5 - y)) / limit
        inside = (distance <= 1) & (distance < before)
        before[inside] = distance[inside]
        window[:, inside] = colors[kind][:, None]
