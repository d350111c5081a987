"""Colours: palettes for painting instances, the nearest colour of a pixel, and pictures for people."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

GRID_PALETTE = np.array([c for c in product((0, 0.5, 1), repeat=3) if any(c)], np.float32)
"""(26, 3): three levels a channel without black; few colours far apart survive an autoencoder best."""
OWN_COLORS = 13
"""So many of its colours, the first, never serve two objects of one picture."""
SPECTRAL = np.array(
    [
        (158, 1, 66), (213, 62, 79), (244, 109, 67), (253, 174, 97), (254, 224, 139), (255, 255, 191),
        (230, 245, 152), (171, 221, 164), (102, 194, 165), (50, 136, 189), (94, 79, 162),
    ],
    np.float32,
)[::-1]  # fmt: skip
"""ColorBrewer's Spectral, cold to warm."""
DISPLAY = np.array(
    [
        (230, 75, 53), (77, 187, 213), (0, 160, 135), (60, 84, 136), (243, 155, 127), (132, 145, 180),
        (145, 209, 194), (220, 145, 40), (126, 97, 72), (176, 122, 161), (237, 201, 72), (89, 161, 79),
    ],
    np.uint8,
)  # fmt: skip
"""Colours of masks and people in pictures for people."""


COLOR_PATH = np.array(
    [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1)], np.float32
)
"""(8, 3): all corners of the colour cube along seven of its edges, black to white: four times as long as the greys, so
that the same error of a colour is a quarter of the error of a value."""


def color_path(values: Array) -> Array:
    """(H, W) in [0, 1] to their colours (3, H, W) along `COLOR_PATH`."""
    position = np.clip(values, 0, 1) * (len(COLOR_PATH) - 1)
    low = np.minimum(position.astype(int), len(COLOR_PATH) - 2)
    share = (position - low)[..., None]
    colors = COLOR_PATH[low] * (1 - share) + COLOR_PATH[low + 1] * share
    return np.ascontiguousarray(colors.transpose(2, 0, 1), np.float32)


def nearest_on_path(rgb: Array) -> Array:
    """(3, H, W) to the value (H, W) of the nearest colour on `COLOR_PATH`; inverse of `color_path`."""
    least = np.full(rgb.shape[1:], np.inf, np.float32)
    values = np.zeros(rgb.shape[1:], np.float32)
    for edge, (start, end) in enumerate(itertools.pairwise(COLOR_PATH)):
        moving = int(np.abs(end - start).argmax())
        along = np.clip((rgb[moving] - start[moving]) * (end - start)[moving], 0, 1)
        others = [channel for channel in range(3) if channel != moving]
        error = (rgb[moving] - start[moving] - along * (end - start)[moving]) ** 2
        error = error + sum((rgb[channel] - start[channel]) ** 2 for channel in others)
        nearer = error < least
        least = np.where(nearer, error, least)
        values = np.where(nearer, (edge + along) / (len(COLOR_PATH) - 1), values)
    return values.astype(np.float32)


def nearest_color(pixels: Array, colors: Array) -> NDArray[np.int64]:
    """(H, W, 3) pixels to the index (H, W) of the nearest of (n, 3) colours."""
    flat = pixels.reshape(-1, 3)
    squared = np.square(colors).sum(axis=1)[None] - 2 * flat @ colors.T
    return squared.argmin(axis=1).reshape(pixels.shape[:2])


def colormap(values: Array) -> NDArray[np.uint8]:
    """(H, W) in [0, 1] to (H, W, 3): Spectral, 1 is warm."""
    position = np.clip(values, 0, 1) * (len(SPECTRAL) - 1)
    low = np.minimum(position.astype(int), len(SPECTRAL) - 2)
    share = (position - low)[..., None]
    return np.rint(SPECTRAL[low] * (1 - share) + SPECTRAL[low + 1] * share).astype(np.uint8)


def overlay_masks(
    masks: Sequence[NDArray[np.bool_]], image: NDArray[np.uint8] | None, size: tuple[int, int]
) -> NDArray:
    """Masks (H, W) in colours with outlines over a faded image (H, W, 3), or over dark grey without one."""
    base = np.full((*size, 3), 40, np.float32) if image is None else image.astype(np.float32) * 0.45 + 20
    inside = base if image is None else image
    for index, mask in enumerate(masks):
        color = DISPLAY[index % len(DISPLAY)].astype(np.float32)
        base[mask] = 0.35 * inside[mask] + 0.65 * color
        base[mask & ~ndimage.binary_erosion(mask)] = np.minimum(color * 0.6 + 110, 255)
    return base.astype(np.uint8)


def overlay_mask(mask: NDArray[np.bool_], image: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """One mask (H, W) over an image (H, W, 3)."""
    return overlay_masks([mask], image, (mask.shape[0], mask.shape[1]))


def median3(planes: Array) -> Array:
    """3 x 3 median of every plane of (C, H, W)."""
    return np.stack([cv2.medianBlur(np.ascontiguousarray(plane), 3) for plane in planes]).astype(np.float32)


def label_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """(H, W) numbers from 1 of the connected parts of a mask, sharing an edge, and how many there are."""
    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=4)
    return np.asarray(labels, np.int32), count - 1
