"""Colours: palettes for painting instances, colour back to instances, and pictures for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

GRID_PALETTE = np.array([c for c in product((0, 0.5, 1), repeat=3) if any(c)], np.float32)
"""(26, 3): three levels a channel without black; few colours far apart survive an autoencoder best."""
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


@dataclass(frozen=True)
class ClusterOptions:
    """How painted colours become instances; one set for all pictures."""

    bin_width: float = 0.04
    """Of the colour histogram; about the noise that an autoencoder leaves."""
    smoothing: float = 1.0
    """Deviation in bins of the Gaussian over the histogram."""
    apart: float = 0.1
    """Two peaks closer than this in RGB are one object."""
    least_share: float = 0.0006
    """Smaller objects are noise: ten pixels at 128 px."""
    reach: float = 0.25
    """A pixel farther than this from every peak belongs to none."""


def instance_masks(
    rgb: Array, palette: Array | None = None, options: ClusterOptions | None = None
) -> tuple[NDArray[np.bool_], Array]:
    """Objects painted in colours on black.

    Args:
        rgb: (3, H, W) in [0, 1].
        palette: (n, 3) colours that were used; None finds the colours as peaks of the picture's own histogram.
        options: thresholds.

    Returns:
        (K, H, W) disjoint masks and (K,) scores: how well a mask's pixels agree on its colour.
    """
    options = options or ClusterOptions()
    pixels = np.stack([ndimage.median_filter(channel, size=3) for channel in rgb], axis=-1)
    least = max(4.0, options.least_share * pixels.shape[0] * pixels.shape[1])
    centres = _peaks(pixels.reshape(-1, 3), least, options) if palette is None else palette
    labels = nearest_color(pixels, np.concatenate([np.zeros((1, 3), np.float32), centres]))
    masks, scores = [], []
    for label in np.unique(labels[labels > 0]):
        chosen = labels == label
        regions = [chosen] if palette is None else _components(chosen)
        for region in regions:
            distance = np.linalg.norm(pixels[region] - centres[label - 1], axis=1)
            region[region] = distance < options.reach
            region = _without_specks(region, least)
            if np.count_nonzero(region) >= least:
                masks.append(region)
                scores.append(float(np.exp(-np.square(distance / 0.1)).mean()))
    empty = np.zeros((0, *rgb.shape[1:]), bool)
    return np.stack(masks) if masks else empty, np.array(scores, np.float32)


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


def overlay_masks(masks: Sequence[NDArray[np.bool_]], image: NDArray[np.uint8] | None, size: tuple[int, int]) -> NDArray:
    """Masks (H, W) in colours with outlines over a faded image (H, W, 3), or over dark grey without one."""
    base = np.full((*size, 3), 40, np.float32) if image is None else image.astype(np.float32) * 0.45 + 20
    for index, mask in enumerate(masks):
        color = DISPLAY[index % len(DISPLAY)].astype(np.float32)
        inside = base if image is None else image.astype(np.float32)
        base[mask] = 0.35 * inside[mask] + 0.65 * color
        base[mask & ~ndimage.binary_erosion(mask)] = np.minimum(color * 0.6 + 110, 255)
    return base.astype(np.uint8)


def overlay_mask(mask: NDArray[np.bool_], image: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """One mask (H, W) over an image (H, W, 3)."""
    return overlay_masks([mask], image, (mask.shape[0], mask.shape[1]))


def _peaks(pixels: Array, least: float, options: ClusterOptions) -> Array:
    """(n, 3) colours at which the histogram of (m, 3) pixels has its peaks; black is none of them."""
    bins = round(1 / options.bin_width) + 1
    index = np.rint(np.clip(pixels, 0, 1) * (bins - 1)).astype(int)
    flat = np.ravel_multi_index(tuple(index.T), (bins,) * 3)
    counts = np.bincount(flat, minlength=bins**3).reshape((bins,) * 3).astype(np.float32)
    smooth = ndimage.gaussian_filter(counts, options.smoothing, mode="constant")
    # A Gaussian keeps about 6 % of a single bin's count at its centre.
    peaks = (smooth == ndimage.maximum_filter(smooth, size=3)) & (smooth > 0.03 * least)
    where = np.argwhere(peaks)
    order = np.argsort(-smooth[peaks], kind="stable")
    kept: list[Array] = []
    for color in (where[order] / (bins - 1)).astype(np.float32):
        if color.mean() > 0.15 and all(np.linalg.norm(color - other) >= options.apart for other in kept):
            kept.append(color)
    return np.array(kept, np.float32).reshape(-1, 3)


def _components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    labels, count = ndimage.label(mask)  # type: ignore[misc]
    return [labels == index for index in range(1, count + 1)]


def _without_specks(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """The mask without its components that are under a quarter of `least` or a tenth of the largest."""
    labels, count = ndimage.label(mask)  # type: ignore[misc]
    if count < 2:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return (areas >= max(least / 4, areas.max() / 10))[labels]
