"""Flat pictures, as microscopes and scanners take them: blobs, cells between walls, or fibres, and what stands out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from diception.annotations import Annotation, BinaryMask, InstanceMasks
from diception.datasets.synthetic.leaves import noise

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int16]

SHARES = {"blobs": 0.5, "cells": 0.3, "fibres": 0.2}
"""How often each layout is drawn."""
DARKEST = 0.1
"""Of a dim picture the brightest level; microscopes underexpose what light would bleach."""
LEAST_CONTRAST = 0.3
"""Between what stands out and the rest, in parts of the brighter level."""
SMALLEST = 6
"""Pixels; what is smaller is no instance."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where things are: the number of the thing at each pixel, -1 for none, and the mask of what stands out."""

    owner: Labels
    mask: npt.NDArray[np.bool_]
    category: str


def flat_picture(generator: np.random.Generator, size: int) -> tuple[npt.NDArray[np.uint8], dict[str, Annotation]]:
    """A picture (size, size, 3) uint8 with its instances and the mask of what stands out of the background.

    Blobs and fibres are things and stand out; between cells the walls do. Brightness, polarity, contrast, colour, blur,
    texture and noise are drawn widely, so that nothing but shape and context tells one from the other.
    """
    layout = LAYOUTS[str(generator.choice(list(SHARES), p=list(SHARES.values())))](generator, size)
    counts = np.bincount(layout.owner[layout.owner >= 0])
    masks = layout.owner[None] == np.flatnonzero(counts >= SMALLEST)[:, None, None]
    image = np.clip(np.rint(_look(generator, layout, size) * 255), 0, 255).astype(np.uint8)
    return image, {
        "instances": InstanceMasks(masks, (layout.category,) * len(masks), None),
        "mask": BinaryMask(layout.mask, "what stands out"),
    }


def _blobs(generator: np.random.Generator, size: int) -> Layout:
    """Ellipses with wavy outlines, from many small to few large, apart or touching."""
    typical = size * np.exp(generator.uniform(np.log(0.02), np.log(0.13)))
    count = int(np.clip(generator.uniform(0.02, 0.5) * size**2 / (np.pi * typical**2), 1, 90))
    stretch, waves, crowd = generator.uniform(0.45, 1), generator.uniform(0, 0.12), generator.uniform(0, 0.25)
    owner = np.full((size, size), -1, np.int16)
    for number in range(count):
        radius = max(typical * generator.lognormal(0, 0.25), 1.2)
        (rows, columns), inside = _blob(generator, size, radius, generator.uniform(stretch, 1), waves)
        patch = owner[rows, columns]
        if inside.any() and (patch[inside] >= 0).mean() <= crowd:
            patch[inside & (patch < 0)] = number
    return Layout(owner, owner >= 0, "blob")


def _blob(
    generator: np.random.Generator, size: int, radius: float, flat: float, waves: float
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """A window of the picture and which of its pixels one blob covers."""
    y, x = generator.uniform(-radius / 2, size + radius / 2, 2)
    reach = 1.5 * radius + 1
    y0, y1, x0, x1 = (int(np.clip(v, 0, size)) for v in (y - reach, y + reach, x - reach, x + reach))
    dy, dx = np.mgrid[y0:y1, x0:x1] + 0.5 - np.array([y, x])[:, None, None]
    turn = generator.uniform(0, np.pi)
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    angle = np.arctan2(across, along)
    edge = 1 + sum(waves * generator.normal() * np.cos(k * angle + generator.uniform(0, 6.3)) / k for k in (2, 3, 4))
    return (slice(y0, y1), slice(x0, x1)), np.hypot(along, across / flat) < radius * edge


def _cells(generator: np.random.Generator, size: int) -> Layout:
    """The cells of Voronoi (some of several seeds, so that sizes differ) on a warped plane, with walls between them."""
    count = int(np.exp(generator.uniform(np.log(3), np.log(70))))
    merged = generator.integers(max(1, int(count * generator.uniform(0.5, 1))), size=count).astype(np.int16)
    seeds = generator.uniform(-0.1 * size, 1.1 * size, (count, 2))
    smooth = generator.uniform(0.04, 0.12) * size
    shift = ndimage.gaussian_filter(generator.standard_normal((2, size, size)), (0, smooth, smooth))
    shift *= generator.uniform(0, 0.06) * size / shift.std()
    places = (np.mgrid[:size, :size] + 0.5 + shift).reshape(2, -1).T
    _, nearest = KDTree(seeds).query(places)
    owner = merged[np.asarray(nearest)].reshape(size, size)
    borders = ndimage.grey_dilation(owner, 3) != ndimage.grey_erosion(owner, 3)
    # Thick walls between large cells alone: something must be left of these.
    half = np.exp(generator.uniform(np.log(0.6), np.log(1.5 + 12 / count))) * size / 128
    wall = np.asarray(ndimage.distance_transform_edt(~borders)) < half
    return Layout(np.where(wall, -1, owner).astype(np.int16), wall, "cell")


def _fibres(generator: np.random.Generator, size: int) -> Layout:
    """Curves that wander over the picture, of a width of their own each."""
    owner = np.full((size, size), -1, np.int16)
    bend = generator.uniform(0.01, 0.12)
    for number in range(generator.integers(1, 12)):
        steps = int(size * generator.uniform(0.4, 1.6))
        heading = generator.uniform(0, 2 * np.pi) + np.cumsum(bend * generator.standard_normal(steps))
        path = generator.uniform(0, size, 2)[:, None] + np.cumsum([np.sin(heading), np.cos(heading)], axis=1)
        row, column = path[:, ((path >= 0) & (path < size)).all(axis=0)].astype(int)
        clear = np.ones((size, size), bool)
        clear[row, column] = False
        half = np.exp(generator.uniform(np.log(0.5), np.log(2.5))) * size / 128
        if len(row):
            owner[np.asarray(ndimage.distance_transform_edt(clear)) < half] = number
    return Layout(owner, owner >= 0, "fibre")


LAYOUTS = {"blobs": _blobs, "cells": _cells, "fibres": _fibres}


def _look(generator: np.random.Generator, layout: Layout, size: int) -> Array:
    """(size, size, 3) display values of a layout: levels, texture, colour, blur, light and noise."""
    uniform = generator.uniform
    bright = np.exp(uniform(np.log(DARKEST), 0))
    dark = bright * uniform(0, 1 - LEAST_CONTRAST)
    above, below = (bright, dark) if generator.random() < 0.5 else (dark, bright)
    contrast = bright - dark
    rest = below + uniform(0, 0.3) * contrast * noise(size, generator)
    out = above + uniform(0, 0.25) * contrast * noise(size, generator) + _shades(generator, layout, contrast)
    grey = np.where(layout.mask, out, rest)
    for _ in range(generator.integers(3)):
        grey += _specks(generator, layout, contrast, size)
    grey += _grain(generator, size) * uniform(0, 0.2) * contrast
    grey = ndimage.gaussian_filter(grey, uniform(0.3, 1.6) * size / 128)
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    grey *= 1 + uniform(-0.25, 0.25) * slope[:, None] + uniform(-0.25, 0.25) * slope[None]
    grey += uniform(0, 0.12) * contrast * generator.standard_normal(grey.shape)
    return _coloured(generator, (grey - dark) / contrast, dark, bright).astype(np.float32)


def _shades(generator: np.random.Generator, layout: Layout, contrast: float) -> npt.NDArray[np.float64]:
    """(size, size) how much brighter or darker each thing is than the others."""
    spread = generator.uniform(0, 0.25) * contrast
    return (spread * generator.standard_normal(int(layout.owner.max()) + 2))[layout.owner]


def _specks(generator: np.random.Generator, layout: Layout, contrast: float, size: int) -> npt.NDArray[np.float64]:
    """(size, size) small things that belong to nothing: organelles, some of them but a rim, dust."""
    grains = _grain(generator, size, np.exp(generator.uniform(np.log(0.7), np.log(4))))
    found = np.asarray(grains > np.quantile(grains, generator.uniform(0.85, 0.99)))
    if generator.random() < 0.3:
        found &= np.logical_not(ndimage.binary_erosion(found, iterations=int(generator.integers(1, 4))))
    return np.where(found & ~layout.mask, generator.uniform(-0.8, 0.8) * contrast, 0.0)


def _grain(generator: np.random.Generator, size: int, scale: float = 0.0) -> npt.NDArray[np.float64]:
    """(size, size) of standard deviation 1, of spots of this size in pixels of 128, drawn where it is 0."""
    scale = scale or generator.uniform(0.6, 2)
    spots = ndimage.gaussian_filter(generator.standard_normal((size, size)), scale * size / 128, mode="wrap")
    return spots / spots.std()


def _coloured(
    generator: np.random.Generator, share: npt.NDArray[np.floating], dark: float, bright: float
) -> npt.NDArray[np.floating]:
    """(size, size, 3) from dark (share 0) to bright (share 1): grey, or between two colours of those levels."""
    ends = np.repeat([[dark], [bright]], 3, axis=1)
    if generator.random() < 0.4:
        ends = ends * (1 + generator.uniform(0.05, 0.4) * generator.standard_normal((2, 3)))
    return np.clip(ends[0] + share[..., None] * (ends[1] - ends[0]), 0, 1)
