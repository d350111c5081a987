"""A folder of images and a folder of targets, paired by name: what a user who adapts the model brings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable
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
    NormalMap,
    RGBImage,
)
from diception.datasets.images import DECODE_ERRORS, IMAGE_SUFFIXES, open_image, read_file, read_image
from diception.datasets.sample import CorruptSample, Sample
from diception.datasets.sources.coco import keypoints_from_coco

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


def _values(path: Path) -> NDArray[Any]:
    """The numbers as stored, (H, W) or (H, W, C): palette indices stay indices, alpha is dropped."""
    image = ImageOps.exif_transpose(open_image(path))
    if image.mode in ("LA", "PA", "RGBA", "RGBX"):
        image = image.convert({"LA": "L", "PA": "P"}.get(image.mode, "RGB"))
    return np.asarray(image)


def _array(path: Path) -> NDArray[Any]:
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise ValueError("an npy file must hold one array of numbers")
    return values


def _load_mask(path: Path, size: Size, options: TargetOptions) -> Annotation:
    values = _array(path) if path.suffix.lower() == ".npy" else _values(path)
    # Lossy files have small nonzero values around every edge.
    least = 127 if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else 0
    mask = values > least
    mask = np.asarray(mask if mask.ndim == 2 else mask.any(axis=-1))
    return BinaryMask(~mask if options.invert else mask, options.category)


def _whole_numbers(path: Path, what: str) -> NDArray[Any]:
    values = _array(path) if path.suffix.lower() == ".npy" else _values(path)
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
    masks = np.zeros((len(numbers), *values.shape), bool)
    for mask, number in zip(masks, numbers, strict=True):
        np.equal(values, number, out=mask)
    return InstanceMasks(masks, (options.category or "",) * len(numbers))


def _load_labels(path: Path, size: Size, options: TargetOptions) -> Annotation:
    values = _whole_numbers(path, "a label map")
    if values.size and options.labels and int(values.max()) >= len(options.labels):
        raise ValueError(f"label {int(values.max())} has no name, {len(options.labels)} are given: {options.labels}")
    return LabelMap(values.astype(np.int32), options.labels)


def _load_depth(path: Path, size: Size, options: TargetOptions) -> Annotation:
    if path.suffix.lower() == ".npy":
        return DepthMap(_array(path).astype(np.float32))
    values = _values(path)
    if values.ndim != 2 or values.dtype.itemsize < 2:
        raise ValueError(f"depth must be npy or a 16-bit png, got {values.shape} {values.dtype}")
    scale = 1.0 if values.dtype.kind == "f" else options.depth_scale
    return DepthMap(values.astype(np.float32) * np.float32(scale))


def _load_normal(path: Path, size: Size, options: TargetOptions) -> Annotation:
    if path.suffix.lower() == ".npy":
        normals = _array(path).astype(np.float32)
        normals = normals if normals.shape[0] == 3 else normals.transpose(2, 0, 1)
    else:
        stored = read_image(path).transpose(2, 0, 1)
        normals = np.where(stored.any(axis=0), stored.astype(np.float32) / 127.5 - 1, 0)
    length = np.linalg.norm(normals, axis=0, keepdims=True)
    # Far from unit length: marked invalid, as zero or as grey.
    normals = np.where(np.isfinite(length) & (length > 0.5), normals / np.maximum(length, 1e-6), 0)
    return NormalMap(normals.astype(np.float32))


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


def _by_stem(folder: Path, endings: Collection[str], suffix: str = "") -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower().lstrip(".") not in endings:
            continue
        if not path.is_file() or not path.stem.endswith(suffix):
            continue
        stem = path.stem.removesuffix(suffix)
        if stem in found:
            raise ValueError(f"two files of one name in {folder}: {found[stem].name} and {path.name}")
        found[stem] = path
    return found


def _key_of(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_ +=@,()-]", "_", stem)[:64]


def _examples(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "none"


class PairedFolder:
    """Images and targets with the same file name up to the ending; a Reader."""

    def __init__(
        self,
        images: Path | str,
        targets: Path | str,
        kind: str,
        options: TargetOptions | None = None,
        target_suffix: str = "",
    ) -> None:
        """`target_suffix`: what a target's name has more than its image's ("_mask" for a.jpg and a_mask.png)."""
        if kind not in TARGETS:
            raise ValueError(f"kind {kind!r} is not known, allowed are {', '.join(TARGETS)}")
        self.kind, self.options = kind, options or TargetOptions()
        endings = TARGETS[kind].endings
        pictures = _by_stem(Path(images), IMAGE_SUFFIXES)
        answers = _by_stem(Path(targets), endings, target_suffix)
        self.pairs = [(pictures[stem], answers[stem]) for stem in sorted(pictures.keys() & answers.keys())]
        self.unpaired = sorted(pictures.keys() ^ answers.keys())
        """Names with an image or a target only."""
        if not self.pairs:
            raise ValueError(
                f"no image in {images} ({len(pictures)}: {_examples(pictures)}) has a target of its name in {targets} "
                f"({len(answers)}: {_examples(answers)}); a {kind} ends in {', '.join(endings)}"
            )
        keys = [_key_of(image.stem) for image, _ in self.pairs]
        self.keys = keys if len(set(keys)) == len(keys) else [f"{key}-{i}" for i, key in enumerate(keys)]

    def __len__(self) -> int:
        return len(self.pairs)

    def kinds(self, i: int) -> frozenset[str]:
        return frozenset((self.kind,))

    def serving(self, kind: str) -> NDArray[np.int64]:
        return np.arange(len(self) if kind == self.kind else 0, dtype=np.int64)

    def read(self, i: int, kinds: Collection[str] | None = None) -> Sample:
        """Decode a pair; CorruptSample, naming the file, where that fails or the two sizes differ."""
        picture, answer = self.pairs[i]
        path = picture
        try:
            image, encoded = read_file(picture)
            sample = Sample(self.keys[i], image, {}, encoded)
            if kinds is None or self.kind in kinds:
                path = answer
                annotation = TARGETS[self.kind].load(answer, sample.size, self.options)
                if annotation.size != sample.size:
                    raise ValueError(f"target has size {annotation.size}, its image {picture} has {sample.size}")
                sample.annotations[self.kind] = annotation
        except DECODE_ERRORS as error:
            reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
            raise CorruptSample(str(path), self.keys[i], reason) from error
        return sample

    def split(self, held_out: int, seed: int) -> tuple[PairedFolder, PairedFolder]:
        """(rest, held out) by a hash of (seed, name): the same on every machine, and little moved by a new image."""
        if not 0 < held_out < len(self):
            raise ValueError(f"held_out is {held_out}, allowed is 1 to {len(self) - 1} of {len(self)} pairs")
        order = sorted(
            range(len(self)), key=lambda i: hashlib.sha256(f"{seed}/{self.pairs[i][0].stem}".encode()).digest()
        )
        return self._subset(sorted(order[held_out:])), self._subset(sorted(order[:held_out]))

    def fingerprint(self) -> str:
        """A hash of the names and contents of all pairs, to tell whether two runs saw the same."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            for path in pair:
                digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def _subset(self, chosen: list[int]) -> PairedFolder:
        part = object.__new__(PairedFolder)
        part.__dict__.update(self.__dict__)
        part.pairs, part.keys = [self.pairs[i] for i in chosen], [self.keys[i] for i in chosen]
        return part
