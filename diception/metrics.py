"""Metrics: pure functions of arrays; what is averaged over images is the evaluators' business."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def align_least_squares(values: NDArray, target: NDArray) -> NDArray:
    """(n,) values scaled and shifted to fit target (n,) with the least squared error."""
    design = np.stack([values, np.ones_like(values)], axis=1)
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    return design @ solution


def abs_rel(depth: NDArray, truth: NDArray) -> float:
    """Mean of |d - d*| / d* over (n,) depths in metres."""
    return float(np.mean(np.abs(depth - truth) / truth))


def delta(depth: NDArray, truth: NDArray, power: int = 1) -> float:
    """Share of (n,) depths within a factor of 1.25 ** power of the truth."""
    return float(np.mean(np.maximum(depth / truth, truth / depth) < 1.25**power))


def rmse(values: NDArray, truth: NDArray) -> float:
    """Root of the mean squared difference of (n,) values."""
    return float(np.sqrt(np.mean(np.square(values - truth))))


def angular_error(normals: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """(3, H, W) vectors to the angle between them, (H, W) in degrees; exact also for small angles, 90 to no vector."""
    one, other = _unit(normals), _unit(truth)
    half = np.linalg.norm(one - other, axis=0), np.linalg.norm(one + other, axis=0)
    return np.degrees(2 * np.arctan2(*half))


def _unit(vectors: NDArray) -> NDArray[np.float64]:
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Twice the intersection over the sum of the areas; 1 if both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 1.0


def boundary_f1(one: NDArray[np.bool_], other: NDArray[np.bool_], tolerance: float = 2.0) -> float:
    """F1 of the boundaries of two masks (H, W), matched within `tolerance` pixels; 1 if neither has any."""
    edges = [mask & ~np.asarray(ndimage.binary_erosion(mask), bool) for mask in (one, other)]
    counts = [np.count_nonzero(edge) for edge in edges]
    if not all(counts):
        return float(counts[0] == counts[1])
    near = [np.asarray(ndimage.distance_transform_edt(np.logical_not(edge))) <= tolerance for edge in edges]
    precision = np.count_nonzero(edges[0] & near[1]) / counts[0]
    recall = np.count_nonzero(edges[1] & near[0]) / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def otsu_threshold(grey: NDArray, bins: int = 256) -> float:
    """The threshold that best separates a grey image into two classes (Otsu 1979)."""
    counts, edges = np.histogram(grey, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = counts.sum() - below
    mean_below = (counts * centres).cumsum() / np.maximum(below, 1)
    mean_above = ((counts * centres).sum() - (counts * centres).cumsum()) / np.maximum(above, 1)
    return float(edges[1:][np.argmax(below * above * np.square(mean_below - mean_above))])


def psnr(one: NDArray, other: NDArray) -> float:
    """Peak signal to noise ratio in dB of arrays in [0, 1]."""
    return float(-10 * np.log10(max(np.mean(np.square(one - other)), 1e-10)))
