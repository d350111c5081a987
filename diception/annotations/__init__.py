"""Annotations: depth, normals, masks, instances, keypoints, labels, pictures; their geometry and their files."""

from __future__ import annotations

from pathlib import Path

from diception.annotations.base import Annotation, DepthSpace, Size, bilinear, nearest, to_npy
from diception.annotations.depth import DepthMap
from diception.annotations.keypoints import COCO_FLIP, COCO_KEYPOINTS, COCO_SKELETON, Keypoints
from diception.annotations.masks import BinaryMask, InstanceMasks, encode_rle
from diception.annotations.normal import NormalMap
from diception.annotations.pictures import LabelMap, RGBImage

__all__ = [
    "Annotation",
    "BinaryMask",
    "COCO_FLIP",
    "COCO_KEYPOINTS",
    "COCO_SKELETON",
    "DepthMap",
    "DepthSpace",
    "InstanceMasks",
    "KINDS",
    "Keypoints",
    "LabelMap",
    "NormalMap",
    "RGBImage",
    "Size",
    "bilinear",
    "encode_rle",
    "load",
    "nearest",
    "save",
]

KINDS: dict[str, type[Annotation]] = {
    cls.kind: cls for cls in (DepthMap, NormalMap, BinaryMask, InstanceMasks, Keypoints, LabelMap, RGBImage)
}


def save(annotation: Annotation, path: str | Path) -> None:
    """Writes the file that `load` reads; depth in full precision and in any space (which the file does not name)."""
    data = to_npy(annotation.values) if isinstance(annotation, DepthMap) else annotation.to_bytes()
    Path(path).write_bytes(data)


def load(kind: str, path: str | Path) -> Annotation:
    """Reads an annotation of a kind from its file."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not known, allowed are {', '.join(KINDS)}")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    return KINDS[kind].from_bytes(Path(path).read_bytes())
