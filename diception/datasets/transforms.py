"""Image and annotations changed together: one size for the model, and augmentation from a given generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from diception.datasets.images import own_size, resample
from diception.datasets.sample import Reduced, Sample

WHOLE = 1 << 30
"""Pixels a side that no image has: it is decoded as it is stored."""


def resize(sample: Sample, height: int, width: int) -> Sample:
    """Squash to (height, width): the image antialiased, annotations by nearest."""
    if min(height, width) < 1:
        raise ValueError(f"size ({height}, {width}) must be at least 1 x 1")
    if sample.size == (height, width) and sample.reduced is None:
        return sample
    image = sample.image if sample.reduced is None else cut(sample.image, sample.reduced.box, height, width)
    image = resample(image, height, width)
    return Sample(sample.key, image, {kind: a.resize(height, width) for kind, a in sample.annotations.items()})


def cut(image: NDArray[np.uint8], box: tuple[float, float, float, float], height: int, width: int) -> NDArray[np.uint8]:
    """The window (left, top, right, bottom), which may begin and end inside pixels.

    It comes in its own pixels if these are whole, otherwise with (height, width).
    """
    left, top, right, bottom = box
    x, y, across, down = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    image = image[y:down, x:across]
    if (x, y, across, down) == box:
        return image
    # Made smaller first, with the pixels that are cut, then moved by less than a pixel.
    rows = min(round((down - y) * height / (bottom - top)), down - y)
    columns = min(round((across - x) * width / (right - left)), across - x)
    small = resample(image, rows, columns)
    scale_x, scale_y = columns / (across - x), rows / (down - y)
    a, d = (right - left) / width * scale_x, (bottom - top) / height * scale_y
    matrix = np.array([[a, 0, a / 2 + (left - x) * scale_x - 0.5], [0, d, d / 2 + (top - y) * scale_y - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(small, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def at_own_size(sample: Sample, least: int, zoom: float) -> Sample:
    """The sample with nearly its own size times `zoom`, see `own_size`."""
    return resize(sample, *own_size(sample.size, least, zoom))


def square(sample: Sample, size: int) -> Sample:
    """Squash to (size, size): the model sees one square size, predictions are stretched back."""
    return resize(sample, size, size)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """The window [top, top + height) x [left, left + width) of image and annotations."""
    rows, columns = sample.size
    if min(top, left, height - 1, width - 1) < 0 or top + height > rows or left + width > columns:
        raise ValueError(f"crop {(top, left, height, width)} (top, left, height, width) leaves the image {sample.size}")
    annotations = {kind: a.crop(top, left, height, width) for kind, a in sample.annotations.items()}
    if sample.reduced is None:
        image = np.ascontiguousarray(sample.image[top : top + height, left : left + width])
        return Sample(sample.key, image, annotations)
    x, y, right, bottom = sample.reduced.box
    across, down = (right - x) / sample.size[1], (bottom - y) / sample.size[0]
    window = (x + left * across, y + top * down, x + (left + width) * across, y + (top + height) * down)
    return Sample(sample.key, sample.image, annotations, reduced=Reduced((height, width), window))


def hflip(sample: Sample) -> Sample:
    """Mirror left and right."""
    image = np.ascontiguousarray(sample.image[:, ::-1])
    reduced = sample.reduced
    if reduced is not None:
        left, top, right, bottom = reduced.box
        reduced = Reduced(reduced.size, (image.shape[1] - right, top, image.shape[1] - left, bottom))
    return Sample(sample.key, image, {kind: a.hflip() for kind, a in sample.annotations.items()}, reduced=reduced)


def turn(sample: Sample) -> Sample:
    """A quarter turn, anticlockwise."""
    image, reduced = np.ascontiguousarray(np.rot90(sample.image)), sample.reduced
    if reduced is not None:
        left, top, right, bottom = reduced.box
        width = sample.image.shape[1]
        reduced = Reduced((reduced.size[1], reduced.size[0]), (top, width - right, bottom, width - left))
    return Sample(sample.key, image, {kind: a.turn() for kind, a in sample.annotations.items()}, reduced=reduced)


def jitter(image: NDArray[np.uint8], strength: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 with brightness, contrast, saturation and gamma each changed by up to `strength`."""
    brightness, contrast, saturation, gamma = 1 + generator.uniform(-strength, strength, 4)
    value = (image.astype(np.float32) / 255) ** np.float32(gamma) * np.float32(brightness)
    grey = value @ np.array([0.299, 0.587, 0.114], np.float32)
    value = grey.mean() + (value - grey.mean()) * np.float32(contrast)
    grey = value @ np.array([0.299, 0.587, 0.114], np.float32)
    value = grey[..., None] + (value - grey[..., None]) * np.float32(saturation)
    return np.rint(np.clip(value, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Augment:
    """Random flip, random resized crop and colour jitter; off by default, all draws from the given generator."""

    hflip: float = 0.0
    """Probability of a mirror image."""
    scale: tuple[float, float] | None = None
    """Smallest and largest share of the image's area that a crop keeps; None: no crop."""
    ratio: float = 4 / 3
    """A crop is at most this much wider or taller than the image's own shape."""
    photometric: float = 0.0
    """Colour jitter of the image alone, up to this share; keep 0 where the target's colours follow the image's."""
    turns: bool = False
    """Whether a sample gets 0 to 3 quarter turns: for what has no up and down."""
    windows: float = 0.0
    """A window of the model's size, or, with `scale`, a smaller one, is cut out of an image at so many times its own
    size; 0: the whole image is seen."""

    def __post_init__(self) -> None:
        if not 0 <= self.hflip <= 1:
            raise ValueError(f"hflip is {self.hflip}, allowed is 0 to 1 (a probability)")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}, allowed is 0 < smallest <= largest <= 1 (shares of the area)")
        if self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}, at least 1 is needed")
        if self.windows < 0:
            raise ValueError(f"windows is {self.windows}, allowed is 0 (none) or a scale above it")
        if not 0 <= self.photometric < 1:
            raise ValueError(f"photometric is {self.photometric}, allowed is 0 to below 1")

    def __call__(self, sample: Sample, size: int, generator: np.random.Generator) -> Sample:
        """Augment a sample and bring it to (size, size)."""
        if self.windows:
            sample = at_own_size(sample, size, self.windows)
        if self.scale is not None or self.windows:
            largest = (size, size) if self.windows else sample.size
            sample = crop(sample, *self._window(sample.size, largest, generator))
        if generator.random() < self.hflip:
            sample = hflip(sample)
        for _ in range(generator.integers(4) if self.turns else 0):
            sample = turn(sample)
        sample = square(sample, size)
        if self.photometric > 0:
            sample = Sample(sample.key, jitter(sample.image, self.photometric, generator), sample.annotations)
        return sample

    def at_least(self, size: int) -> int:
        """Pixels a side that an image needs, so that its smallest crop has `size`."""
        if self.windows:
            return WHOLE
        return size if self.scale is None else math.ceil(size / math.sqrt(self.scale[0] / self.ratio))

    def _window(
        self, size: tuple[int, int], largest: tuple[int, int], generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of a crop of an image of `size`; with `scale`, a share of the largest crop."""
        height, width = largest
        if self.scale is not None:
            area = generator.uniform(*self.scale)
            stretch = math.exp(generator.uniform(-1, 1) * math.log(self.ratio) / 2)
            height = min(max(round(height * math.sqrt(area) * stretch), 1), height)
            width = min(max(round(width * math.sqrt(area) / stretch), 1), width)
        top, left = generator.integers(size[0] - height + 1), generator.integers(size[1] - width + 1)
        return int(top), int(left), height, width
