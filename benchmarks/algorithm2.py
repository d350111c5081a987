"""The paper's Algorithm 2, which reads masks from random colours; its constants are unpublished, these are ours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.signal import find_peaks

from diception.annotations import InstanceMasks
from diception.colors import label_components

TOLERANCE = 0.1
"""Deviation of a pixel's channels from its cluster's centre, and of a centre from black."""
PEAK = 0.002
"""Share of the pixels that makes a bin of a channel's histogram a peak."""
KERNEL = 3
SMALLEST = 50
MOST_PIECES = 20
DUPLICATE = 0.8


def read_algorithm_2(rgb: NDArray[np.float32]) -> InstanceMasks:
    """Masks of a painting (3, H, W): clusters of colours, cleaned by morphology."""
    pixels = rgb.reshape(3, -1).T
    counts = [np.histogram(channel, 64, (0, 1))[0] for channel in rgb]
    peaks = [len(find_peaks(np.pad(count, 1), height=PEAK * pixels.shape[0])[0]) for count in counts]
    generator = np.random.default_rng(0)
    sample = pixels[generator.choice(len(pixels), min(len(pixels), 20_000), replace=False)].astype(np.float64)
    centres, _ = kmeans2(sample, max(1, round(float(np.mean(peaks)))), minit="++", rng=generator)
    masks: list[NDArray[np.bool_]] = []
    for centre in centres:
        if not np.isfinite(centre).all() or (centre < TOLERANCE).all():
            continue
        near = (np.abs(rgb - centre.astype(np.float32)[:, None, None]) < TOLERANCE).all(axis=0)
        filled = ndimage.binary_fill_holes(near)
        mask = np.asarray(ndimage.binary_opening(filled, np.ones((KERNEL, KERNEL))), bool)
        if mask.sum() >= SMALLEST and label_components(mask)[1] <= MOST_PIECES:
            same = [(mask & other).sum() / (mask | other).sum() for other in masks]
            if max(same, default=0) < DUPLICATE:
                masks.append(mask)
    stacked = np.array(masks, bool).reshape(-1, *rgb.shape[1:])
    return InstanceMasks(stacked, ("",) * len(stacked))
