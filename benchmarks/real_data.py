"""Small real data sets as samples, for benchmarks: folders as their publishers lay them out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from diception.annotations import Annotation, DepthMap, InstanceMasks, NormalMap
from diception.datasets.images import read_image
from diception.datasets.sample import Sample
from diception.datasets.sources.coco import CocoData, decode_segmentation

PERSON_JOINTS = 8
"""A crop shows a person with so many marked joints."""


def seven_scenes(root: Path) -> Iterator[Sample]:
    """RGB-D frames; depth in millimetres, 0 or above 10 m is invalid."""
    for file in sorted(root.glob("*.depth.png")):
        millimetres = np.array(Image.open(file)).astype(np.float32)
        metres = np.where(millimetres < 10_000, millimetres / 1000, 0)
        image = read_image(file.with_name(file.name.replace(".depth.png", ".color.jpg")))
        annotation = DepthMap(metres.astype(np.float32)).resize(*image.shape[:2])
        yield Sample(file.name.split(".")[0], image, {"depth": annotation})


def derived_normals(root: Path) -> Iterator[Sample]:
    """Smooth pseudo ground truth; its axes are x right, y down, z forward."""
    for file in sorted((root / "derived_from_depth").glob("*_normal.png")):
        vectors = np.array(Image.open(file)).astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
        valid = np.array(Image.open(str(file).replace("_normal", "_valid"))).reshape(*vectors.shape[1:], -1)[..., 0] > 0
        image = read_image(Path(str(file).replace("_normal.png", "_rgb.jpg")))
        yield Sample(file.stem, image, {"normal": _unit(vectors * [[[1]], [[-1]], [[-1]]], valid)})


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
    content = json.loads((root / "annotations" / "panoptic_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for record in content["annotations"]:
        colors = np.array(Image.open(root / "annotations" / "panoptic_train2017" / record["file_name"])).astype(int)
        ids = colors[..., 0] + 256 * colors[..., 1] + 256**2 * colors[..., 2]
        segments = [s for s in record["segments_info"] if not s.get("iscrowd") and (ids == s["id"]).any()]
        masks = np.stack([ids == s["id"] for s in segments])
        annotation = InstanceMasks(masks, tuple(names[s["category_id"]] for s in segments))
        image = read_image(root / "train2017" / files[record["image_id"]])
        yield Sample(Path(record["file_name"]).stem, image, {"instances": annotation})


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
                yield Sample(f"{sample.key}-{index}", np.ascontiguousarray(image), {"pose": cropped})


def segment_anything(root: Path) -> Iterator[Sample]:
    """SA-1B; every mask of an image is one of its instances."""
    for file in sorted(root.glob("*.json")):
        image, content = read_image(file.with_suffix(".jpg")), json.loads(file.read_text())
        size = (image.shape[0], image.shape[1])
        masks = np.stack([decode_segmentation(one["segmentation"], size) for one in content["annotations"]])
        yield Sample(file.stem, image, {"instances": InstanceMasks(masks, ("",) * len(masks))})


def with_kind(samples: Iterator[Sample], kind: str) -> list[Sample]:
    """Those that have this annotation, with nothing else."""
    return [Sample(s.key, s.image, {kind: s.annotations[kind]}) for s in samples if kind in s.annotations]


def _unit(vectors: np.ndarray, valid: np.ndarray) -> Annotation:
    length = np.linalg.norm(vectors, axis=0)
    kept = valid & (length > 0.5)
    return NormalMap(np.where(kept, vectors / np.maximum(length, 0.5), 0).astype(np.float32))
