"""Pictures without things or ground truth, whose statistics are those of photographs: dead leaves under noise."""

import numpy as np
import torch
from torch import Tensor

LARGEST, SMALLEST = 0.6, 0.05
"""Radii of leaves, in parts of the picture's side."""
COVER = 2.0
"""Leaves fall until their areas sum to so many pictures."""
SHADES = 0.25
"""Deviation of the brightness of leaves; that of their colour is a third."""


def leaf_pictures(count: int, size: int, seed: int, index: int) -> Tensor:
    """(count, 3, size, size) pictures in [0, 1], a pure function of the arguments.

    Ellipses of random colour cover each other, radii r with density r^-3 as occlusion makes them in photographs
    (Lee, Mumford, Huang 2001); gradients of light and noise with the spectrum 1 / f lie on them. They stand in for
    photographs where none may be used (as in Baradad et al., "Learning to See by Looking at Noise", 2021).
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    pictures = np.stack([_picture(size, generator) for _ in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _picture(size: int, generator: np.random.Generator) -> np.ndarray:
    base = (generator.uniform(0.2, 0.8) + 0.12 * generator.standard_normal(3)).astype(np.float32)
    picture = np.broadcast_to(base, (size, size, 3)).copy()
    covered = 0.0
    while covered < COVER:
        radius = _radius(generator)
        flat = generator.uniform(0.3, 1)
        covered += np.pi * radius**2 * flat
        _drop(picture, base, radius * size, flat, generator)
    picture += generator.uniform(0, 0.1) * noise(size, generator)[..., None]
    return np.clip(picture, 0, 1)


def _radius(generator: np.random.Generator) -> float:
    """Drawn with density r^-3 between the least and the largest."""
    low, high = LARGEST**-2, SMALLEST**-2
    return float((low + generator.random() * (high - low)) ** -0.5)


def _drop(picture: np.ndarray, base: np.ndarray, radius: float, flat: float, generator: np.random.Generator) -> None:
    """Paints one ellipse of soft edge and a gradient of light on the picture (H, W, 3), in place."""
    size = len(picture)
    x, y = generator.uniform(-radius / 2, size + radius / 2, 2)
    reach = (x - radius - 1, x + radius + 2, y - radius - 1, y + radius + 2)
    x0, x1, y0, y1 = (int(np.clip(v, 0, size)) for v in reach)
    angle, light = generator.uniform(0, np.pi), generator.normal(0, 0.15, 2)
    colour = base + SHADES * generator.standard_normal() + SHADES / 3 * generator.standard_normal(3)
    if x0 >= x1 or y0 >= y1:
        return
    dy, dx = np.ogrid[y0 - y : y1 - y, x0 - x : x1 - x]
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / radius
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius * flat)
    distance = (1 - np.sqrt(along**2 + across**2)) * radius * flat
    share = np.clip(distance[: y1 - y0, : x1 - x0] + 0.5, 0, 1)[..., None].astype(np.float32)
    shade = (light[0] * along + light[1] * across)[: y1 - y0, : x1 - x0, None]
    region = picture[y0:y1, x0:x1]
    region += share * (colour + shade - region).astype(np.float32)


def noise(size: int, generator: np.random.Generator) -> np.ndarray:
    """Noise (size, size) with amplitude 1 / f and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(generator.standard_normal((size, size))) / frequency, (size, size))
    return (noise / noise.std()).astype(np.float32)
