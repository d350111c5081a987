"""Smoothing of painted values by as much noise as the painting itself shows, for depth and normals."""

from __future__ import annotations

import cv2
import numpy as np

from diception.tasks.base import Array
from diception.tasks.decoding import DECODING

STRIDE = 4
"""Every so many rows of a large picture tell its noise."""


def smooth(values: Array, noise: Array, own: float = 0.0) -> Array:
    """Takes noise off values, edges kept: fine noise at full size, noise of whole latent cells at a quarter of it.

    Args:
        values: (H, W, C) with C of 1 or 3.
        noise: (H, W, m), planes that would be zero everywhere if nothing but the values were painted, at the scale of
            one channel's noise in `values`; nan where that cannot be said.
        own: deviation that they have without any noise.

    Returns:
        (H, W, C). With no noise, the values.
    """
    height, width = values.shape[:2]
    fine = _without_fine(values, _deviation(noise, own))
    size = max(1, width // DECODING.coarse), max(1, height // DECODING.coarse)
    small = _plane(cv2.resize(values, size, interpolation=cv2.INTER_AREA))
    left = min(_deviation(_plane(cv2.resize(noise, size, interpolation=cv2.INTER_AREA)), own), DECODING.coarse_most)
    if not left:
        return fine
    reach = DECODING.coarse_space
    tolerance = DECODING.coarse_range * left * values.shape[2] ** 0.5
    calm = _plane(cv2.bilateralFilter(small, 2 * round(1.5 * reach) + 1, tolerance, reach))
    return fine + _plane(cv2.resize(calm - small, (width, height), interpolation=cv2.INTER_LINEAR))


def _without_fine(values: Array, deviation: float) -> Array:
    """Local means where the local variance is the noise's, the values where it is much more (Lee 1980)."""
    if not deviation:
        return values
    mean = _plane(_blurred(values, DECODING.fine))
    rest = values - mean
    variance = _blurred(np.square(rest).mean(axis=2), DECODING.fine_window)
    kept = np.clip(1 - DECODING.fine_noise * deviation**2 / np.maximum(variance, 1e-12), 0, 1)
    return (mean + _blurred(kept.astype(np.float32), DECODING.fine_window / 2)[..., None] * rest).astype(np.float32)


def _deviation(noise: Array, own: float) -> float:
    """Deviation of noise by its quantiles, so that edges do not count, without the part that is there anyway.

    The wider side counts: what is painted at the end of the range has noise to one side only.
    """
    some = noise[:: STRIDE if len(noise) > STRIDE**3 else 1]
    known = some[np.isfinite(some)]
    if not known.size:
        return 0.0
    low, middle, high = np.quantile(known, (0.159, 0.5, 0.841))
    return max(float(max(high - middle, middle - low)) ** 2 - own**2, 0.0) ** 0.5


def _blurred(values: Array, deviation: float) -> Array:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), deviation, borderType=cv2.BORDER_REFLECT), np.float32)


def _plane(values: object) -> Array:
    """(H, W, C), also where OpenCV has dropped the last axis."""
    array = np.asarray(values, np.float32)
    return array[..., None] if array.ndim == 2 else array
