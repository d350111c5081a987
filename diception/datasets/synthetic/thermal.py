"""Scenes as a thermal camera shows them: false colours of a picture that is soft, striped and noisy."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

WEIGHTS = np.array([0.3, 0.59, 0.11], np.float32)
"""Of red, green and blue in the brightness."""
PALETTE = np.array(
    [(0, 0, 0), (0.2, 0, 0.45), (0.65, 0.05, 0.5), (0.95, 0.35, 0.1), (1, 0.8, 0.15), (1, 1, 0.9)], np.float32
)
"""Cold to hot."""
BLUR = 0.005
"""Of the optics, in parts of the picture's side."""
NOISE, STRIPES = 0.025, 0.02
"""Deviations, of single pixels and of whole columns."""


def thermal(display: Array, generator: np.random.Generator) -> Array:
    """(3, H, W) display values in [0, 1] to false colours (3, H, W): what is dark is warm, within a drawn range."""
    height, width = display.shape[1:]
    warmth = 1 - np.tensordot(WEIGHTS, display, axes=1)
    low, high = generator.uniform(0, 0.15), generator.uniform(0.85, 1)
    warmth = ndimage.gaussian_filter(warmth, BLUR * height)
    warmth += NOISE * generator.standard_normal((height, width), np.float32)
    warmth += STRIPES * generator.standard_normal(width, np.float32)
    levels = np.clip((warmth - low) / (high - low), 0, 1)
    ends = np.linspace(0, 1, len(PALETTE))
    return np.stack([np.interp(levels, ends, channel) for channel in PALETTE.T]).astype(np.float32)
