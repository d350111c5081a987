"""Small real data sets as samples, for benchmarks: folders as their publishers lay them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from diception.annotations import Annotation, InstanceMasks, NormalMap
from diception.datasets.images import read_image
from diception.datasets.sample import Sample
from diception.datasets.sources.coco import CocoData
from diception.datasets.sources.depth import DepthData, DepthOptions
from diception.datasets.sources.normal import NormalData
from diception.datasets.sources.panoptic import PanopticData
from diception.datasets.sources.sa1b import Sa1bData

PERSON_JOINTS = 8
"""A crop shows a person with so many marked joints."""


def seven_scenes(root: Path) -> Iterator[Sample]:
    """RGB-D frames; depth in millimetres, 0 or above 10 m is invalid."""
    yield from DepthData(str(root / "*.color.jpg"), str(root / "*.depth.png"), DepthOptions(farthest=10, resize=True))


def derived_normals(root: Path) -> Iterator[Sample]:
    """Smooth pseudo ground truth; its axes are x right, y down, z forward."""
    folder = root / "derived_from_depth"
    patterns = (str(folder / f"*_{name}") for name in ("rgb.jpg", "normal.png", "valid.png"))
    images, targets, valid = patterns
    yield from NormalData(images, targets, "right,down,forward", valid)


def tartan_normals(root: Path) -> Iterator[Sample]:
    """One synthetic frame of foliage; its axes are x left, y up, z to the camera."""
    folder = root / "dsine_example"
    vectors = np.array(Image.open(folder / "000000_normal.png")).astype(np.float32)[..., :3].transpose(2, 0, 1)
    normals = _unit((vectors / 127.5 - 1) * [[[-1]], [[1]], [[1]]], vectors.any(axis=0))
    yield Sample("tartan", read_image(folder / "000000_img.png"), {"normal": normals})


def ball_normals(root: Path) -> Iterator[Sample]:
    """An exact sphere; its axes are x right, y up, z to the camera."""
    folder = root / "diligent_ball"
    vectors = np.array(Image.open(folder / "Normal_gt.png")).astype(np.float32)[..., :3].transpose(2, 0, 1)
    mask = np.array(Image.open(folder / "mask.png")).reshape(*vectors.shape[1:], -1)[..., 0] > 0
    image = np.array(Image.open(folder / "001.png"))
    eight = (image / 257).astype(np.uint8) if image.dtype != np.uint8 else image
    yield Sample("ball", np.ascontiguousarray(eight[..., :3]), {"normal": _unit(vectors / 127.5 - 1, mask)})


def panoptic(root: Path) -> Iterator[Sample]:
    """COCO panoptic: every thing and every stuff region is an entity."""
    yield from PanopticData(root / "train2017", root / "annotations" / "panoptic_train2017.json")


def coco(root: Path) -> Iterator[Sample]:
    """COCO instances and keypoints, both splits."""
    for split in ("train2017", "val2017"):
        files = [root / "annotations" / f"{kind}_{split}.json" for kind in ("instances", "person_keypoints")]
        yield from CocoData(root / split, *files)


def people(root: Path) -> Iterator[Sample]:
    """COCO images with person instances, nothing else marked."""
    for sample in coco(root):
        found = sample.annotations.get("instances")
        if isinstance(found, InstanceMasks) and len(found.of_category("person")):
            yield Sample(sample.key, sample.image, {"instances": found.of_category("person")})


def person_crops(root: Path) -> Iterator[Sample]:
    """Square windows around one well-marked person, a quarter wider than the joints, with nobody else's joints in."""
    for sample in coco(root):
        pose = sample.annotations.get("pose")
        for index in range(len(pose) if pose is not None else 0):
            joints = pose.people[index]  # type: ignore[union-attr]
            places = joints[joints[:, 2] > 0, :2]
            if len(places) < PERSON_JOINTS:
                continue
            low, high = places.min(axis=0), places.max(axis=0)
            half = 0.625 * float((high - low).max())
            left, top = np.maximum((low + high) / 2 - half, 0).astype(int)
            height, width = sample.size
            bottom, right = min(int(top + 2 * half), height), min(int(left + 2 * half), width)
            window = (int(top), int(left), bottom - int(top), right - int(left))
            cropped = pose.crop(*window)  # type: ignore[union-attr]
            if len(cropped) == 1 and (cropped.people[0, :, 2] > 0).sum() >= PERSON_JOINTS:
                image = sample.image[window[0] : bottom, window[1] : right]
                yield Sample(f"{sample.key}.{index}", np.ascontiguousarray(image), {"pose": cropped})


def segment_anything(root: Path) -> Iterator[Sample]:
    """SA-1B; every mask of an image is one of its instances."""
    yield from Sa1bData(root)


def with_kind(samples: Iterator[Sample], kind: str) -> list[Sample]:
    """Those that have this annotation, with nothing else."""
    return [Sample(s.key, s.image, {kind: s.annotations[kind]}) for s in samples if kind in s.annotations]


def _unit(vectors: np.ndarray, valid: np.ndarray) -> Annotation:
    length = np.linalg.norm(vectors, axis=0)
    kept = valid & (length > 0.5)
    return NormalMap(np.where(kept, vectors / np.maximum(length, 0.5), 0).astype(np.float32))
