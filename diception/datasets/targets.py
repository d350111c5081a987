"""Files of targets as a user brings them: masks, maps, depth, normals, poses and pictures, each kind by its endings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from diception.annotations import (
    Annotation,
    BinaryMask,
    DepthMap,
    InstanceMasks,
    Keypoints,
    LabelMap,
    RGBImage,
)
from diception.annotations.masks import MAX_VALUES
from diception.datasets.images import IMAGE_SUFFIXES, open_image, read_image
from diception.datasets.sources.arrays import read_array, read_vectors, unit_normals
from diception.datasets.sources.coco import keypoints_from_coco
from diception.tasks.label_map import VOID

Size = tuple[int, int]
MAX_INSTANCES = 4096
"""A depth map or a photograph taken for a map of instances would become thousands of masks."""


@dataclass(frozen=True)
class TargetOptions:
    """How the numbers in target files are meant."""

    depth_scale: float = 0.001
    """Metres of one step of a 16-bit depth png; files of floats are metres already."""
    category: str | None = None
    """What a binary mask, or every instance, marks."""
    invert: bool = False
    """A binary mask marks the zeros."""
    labels: tuple[str, ...] = ()
    """Names of a label map's values, from 0 (the background) on; empty: only checked to be whole numbers."""


def check_options(options: TargetOptions, kind: str) -> None:
    """ValueError where an option is for targets of another kind."""
    allowed = {"invert": ("mask",), "category": ("mask", "instances"), "labels": ("labels",)}
    for name, kinds in allowed.items():
        if getattr(options, name) and kind not in kinds:
            flag = "names" if name == "labels" else name
            raise ValueError(f"--{flag} is for --kind {' and '.join(kinds)}, not for {kind}")


def read_names(path: Path) -> tuple[str, ...]:
    """Names of labels, one a line, the first is the background's; ValueError where there is none or one is empty."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if not names or not all(names):
        raise ValueError(f"{path}: must hold one name a line, that of the background first, and no empty line")
    return names


def _values(path: Path) -> NDArray[Any]:
    """The numbers as stored, (H, W) or (H, W, C): palette indices stay indices, alpha is dropped."""
    image = ImageOps.exif_transpose(open_image(path))
    if image.mode in ("LA", "PA", "RGBA", "RGBX"):
        image = image.convert({"LA": "L", "PA": "P"}.get(image.mode, "RGB"))
    return np.asarray(image)


def _shades(path: Path) -> NDArray[Any]:
    """As `_values`, but a palette's colours in place of its indices, which may be in any order.

    Raises:
        ValueError: an alpha channel that is not the same everywhere: it could be the mask, or not.
    """
    image = open_image(path)
    if image.mode in ("LA", "RGBA") and len(set(image.getchannel("A").getextrema())) > 1:
        raise ValueError(f"a mask of mode {image.mode} with an alpha channel that varies; save the mask as one channel")
    if image.mode not in ("P", "PA"):
        return _values(path)
    shades = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return shades if shades.any() else _values(path)


def _load_mask(path: Path, size: Size, options: TargetOptions) -> Annotation:
    values = read_array(path) if path.suffix.lower() == ".npy" else _shades(path)
    # Lossy files have small nonzero values around every edge.
    least = 127 if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else 0
    mask = values > least
    mask = np.asarray(mask if mask.ndim == 2 else mask.any(axis=-1))
    return BinaryMask(~mask if options.invert else mask, options.category)


def _whole_numbers(path: Path, what: str) -> NDArray[Any]:
    values = read_array(path) if path.suffix.lower() == ".npy" else _values(path)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ValueError(f"{what} must be one channel of whole numbers, got {values.shape} {values.dtype}")
    return values


def _load_instances(path: Path, size: Size, options: TargetOptions) -> Annotation:
    values = _whole_numbers(path, "instances")
    numbers = [number for number in np.unique(values).tolist() if number != 0]
    if numbers and numbers[0] < 0:
        raise ValueError(f"instances are numbered from 1, with 0 for the background, got {numbers[0]}")
    if len(numbers) > MAX_INSTANCES:
        raise ValueError(f"holds {len(numbers)} instances, at most {MAX_INSTANCES} are read: it is no map of instances")
    if len(numbers) * values.size > MAX_VALUES:
        raise ValueError(f"{len(numbers)} instances of {values.size} pixels, at most {MAX_VALUES} values are read")
    masks = np.zeros((len(numbers), *values.shape), bool)
    for mask, number in zip(masks, numbers, strict=True):
        np.equal(values, number, out=mask)
    return InstanceMasks(masks, (options.category or "",) * len(numbers))


def _load_labels(path: Path, size: Size, options: TargetOptions) -> Annotation:
    values = _whole_numbers(path, "a label map")
    largest = int(values.max(initial=0, where=values != VOID))
    if options.labels and largest >= len(options.labels):
        raise ValueError(f"label {largest} has no name, {len(options.labels)} are given: {options.labels}")
    return LabelMap(values.astype(np.int32), options.labels)


def _load_depth(path: Path, size: Size, options: TargetOptions) -> Annotation:
    values = read_array(path) if path.suffix.lower() == ".npy" else _values(path)
    if values.ndim != 2 or values.dtype.itemsize < 2:
        raise ValueError(f"depth must be npy or a 16-bit png, got {values.shape} {values.dtype}")
    scale = 1.0 if values.dtype.kind == "f" else options.depth_scale
    return DepthMap(values.astype(np.float32) * np.float32(scale))


def _load_normal(path: Path, size: Size, options: TargetOptions) -> Annotation:
    return unit_normals(read_vectors(path))


def _load_pose(path: Path, size: Size, options: TargetOptions) -> Annotation:
    content = json.loads(path.read_bytes())
    if isinstance(content, dict) and "annotations" not in content:
        return Keypoints.from_bytes(path.read_bytes())
    found = keypoints_from_coco(content["annotations"] if isinstance(content, dict) else content, size)
    empty = Keypoints(np.zeros((0, 17, 3), np.float32), size, np.zeros(0, np.float32), None)
    return empty if found is None else found


def _load_image(path: Path, size: Size, options: TargetOptions) -> Annotation:
    return RGBImage(read_image(path).transpose(2, 0, 1).astype(np.float32) / 255)


@dataclass(frozen=True)
class TargetKind:
    """How targets of one kind are stored: file endings and the function that reads one."""

    endings: tuple[str, ...]
    load: Callable[[Path, Size, TargetOptions], Annotation]


PICTURES = tuple(IMAGE_SUFFIXES)
LOSSLESS = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in ("jpg", "jpeg", "webp"))
TARGETS = {
    "mask": TargetKind((*PICTURES, "npy"), _load_mask),
    "instances": TargetKind((*LOSSLESS, "npy"), _load_instances),
    "labels": TargetKind((*LOSSLESS, "npy"), _load_labels),
    "depth": TargetKind((*LOSSLESS, "npy"), _load_depth),
    "normal": TargetKind((*LOSSLESS, "npy"), _load_normal),
    "pose": TargetKind(("json",), _load_pose),
    "image": TargetKind(PICTURES, _load_image),
}
