"""Questions about images: what the user gives, checked and brought to the model's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diception.datasets.images import MULTIPLE, own_size, read_image, resample, to_rgb
from diception.datasets.sample import Batch
from diception.inference.prediction import to_uint8
from diception.tasks import Task
from diception.tasks.base import MAX_POINTS

Size = tuple[int, int]
ImageInput = Image.Image | NDArray | Tensor | Path | str


@dataclass(frozen=True, eq=False)
class Request:
    """One question about one image."""

    image: ImageInput
    """PIL, (H, W, 3) uint8 array, (3, H, W) float tensor in [0, 1], or a file, which is opened when its turn comes."""
    task: str
    """Name of a task that the model knows."""
    points: Sequence[tuple[float, float]] | None = None
    """1 to 5 (x, y) in [0, 1], for tasks prompted by points."""
    category: str | None = None
    """For tasks prompted by category, for example `person`."""
    seed: int = 0
    """Fixes the noise."""


@dataclass(frozen=True, eq=False)
class Checked:
    """A request that the model can answer."""

    task: Task
    points: NDArray[np.float32]
    """(n, 2), n = 0 where the task takes none."""
    prompt: str
    seed: int


def check_size(size: Size) -> Size:
    """(h, w), both positive multiples of 16."""
    height, width = size
    if height % MULTIPLE or width % MULTIPLE or min(height, width) < MULTIPLE:
        raise ValueError(f"size is {height} x {width}; both must be positive multiples of {MULTIPLE}")
    return height, width


def fitting_size(image: Size, resolution: int) -> Size:
    """(h, w) of nearly the aspect of an image (H, W), its longer side the model's resolution."""
    scale = resolution / max(image)
    return tuple(max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in image)  # type: ignore[return-value]


def working_size(
    resolution: int, size: Size | None, keep_aspect: bool, tile: bool, zoom: float = 1.0
) -> Callable[[Size], Size]:
    """Which size (h, w) an image of (H, W) is brought to; ValueError where options exclude each other or do not fit."""
    if keep_aspect and (size is not None or tile):
        raise ValueError(f"{'size' if size is not None else 'tile'} and keep_aspect are both given; choose one")
    if size is not None and tile and min(size) < resolution:
        raise ValueError(f"size is {size[0]} x {size[1]}; to be tiled, both must be at least {resolution}")
    if keep_aspect:
        return lambda image: fitting_size(image, resolution)
    if tile and size is None:
        return lambda image: own_size(image, resolution, zoom)
    fixed = check_size(size or (resolution, resolution))
    return lambda image: fixed


def make_batch(
    pictures: Sequence[NDArray[np.uint8]], requests: Sequence[Checked], size: Size, lanczos: bool = False
) -> Batch:
    """The model's input from images (H, W, 3) and questions.

    Images are squashed to `size` (h, w) as in training, or, with `lanczos`, as the released code does.
    """
    squashed = [_lanczos(picture, size) if lanczos else resample(picture, *size) for picture in pictures]
    stacked = np.stack(squashed).transpose(0, 3, 1, 2)
    slots = torch.zeros(len(requests), MAX_POINTS, 2)
    used = torch.zeros(len(requests), MAX_POINTS, dtype=torch.bool)
    for row, request in enumerate(requests):
        slots[row, : len(request.points)] = torch.from_numpy(request.points)
        used[row, : len(request.points)] = True
    return Batch(
        image=torch.from_numpy(stacked / np.float32(255)),
        target=None,
        valid=None,
        prompts=[request.prompt for request in requests],
        points=slots,
        point_mask=used,
        tasks=[request.task.name for request in requests],
        keys=[str(index) for index in range(len(requests))],
        seeds=torch.tensor([request.seed for request in requests], dtype=torch.int64),
        truths=[],
    )


def _lanczos(picture: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def to_array(image: ImageInput) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a file or a PIL image (turned as EXIF says), an array, or a (3, H, W) tensor in [0, 1]."""
    if isinstance(image, (Path, str)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return to_rgb(image.copy())
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image tensor has shape {tuple(image.shape)}; expected (3, H, W)")
        if not image.is_floating_point() or not ((image >= 0) & (image <= 1)).all():
            raise ValueError(f"image tensor is {image.dtype} beyond [0, 1]; expected floats in [0, 1]")
        return to_uint8(image.cpu().numpy())
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image array is {array.dtype} of shape {array.shape}; expected uint8 (H, W, 3)")
    return array


def check_points(task: Task, points: Sequence[tuple[float, float]] | None) -> NDArray[np.float32]:
    """(n, 2) array of the points, with n = 0 for tasks that take none; a ValueError says what is wrong with them."""
    count = 0 if points is None else len(points)
    if not task.takes_points:
        if count:
            raise ValueError(f"task {task.name!r} takes no points, but {count} were given")
        return np.zeros((0, 2), np.float32)
    if points is None or not 0 < count <= MAX_POINTS:
        raise ValueError(f"task {task.name!r} needs 1 to {MAX_POINTS} points, but {count} were given")
    array = np.asarray(points, np.float32)
    if array.shape != (count, 2) or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"points {list(points)} are out of range; each is (x, y) in [0, 1]")
    return array
