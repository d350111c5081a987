"""COCO panoptic segments to samples: things and stuff, each segment one mask; crowds are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diception.annotations import InstanceMasks
from diception.annotations.masks import MAX_VALUES
from diception.datasets.images import DECODE_ERRORS, open_image, read_file
from diception.datasets.sample import Sample
from diception.datasets.sources.coco import (
    category_name,
    image_file,
    image_key,
    list_images,
    read_categories,
    read_json,
)


def read_ids(path: Path) -> NDArray[np.int32]:
    """(H, W) numbers of segments, stored as red + 256 green + 65536 blue; 0 is no segment."""
    image = open_image(path)
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"{path}: panoptic segments are stored as an RGB picture, this one is {image.mode}")
    colors = np.asarray(image)[..., :3].astype(np.int32)
    return colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]


def instances_from_panoptic(
    ids: NDArray[np.int32], segments: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> InstanceMasks | None:
    """Masks in the order of the file; None where nothing but crowds is marked. ValueError: picture and list differ."""
    painted, listed = set(np.unique(ids).tolist()) - {0}, {segment["id"] for segment in segments}
    if painted != listed:
        absent, unknown = sorted(listed - painted)[:3], sorted(painted - listed)[:3]
        raise ValueError(f"segments {absent} are not in the picture, {unknown} of the picture are not in the list")
    kept = [segment for segment in segments if not segment.get("iscrowd", 0)]
    if not kept:
        return None
    if len(kept) * ids.size > MAX_VALUES:
        raise ValueError(f"{len(kept)} segments of {ids.size} pixels, at most {MAX_VALUES} values are read")
    crowds = {category_name(names, segment["category_id"]) for segment in segments if segment.get("iscrowd", 0)}
    masks = np.stack([ids == segment["id"] for segment in kept])
    categories = tuple(category_name(names, segment["category_id"]) for segment in kept)
    return InstanceMasks(masks, categories, None, tuple(sorted(crowds)))


class PanopticData:
    """Images with "instances", one per segment: COCO panoptic and what else has this format."""

    def __init__(self, images: Path, annotations: Path, panoptic: Path | None = None) -> None:
        """`panoptic`: folder of the PNG files; beside the JSON, with its name, where it is not given."""
        content = read_json(annotations)
        self.file, self.folder = annotations, panoptic or annotations.with_suffix("")
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder; the panoptic PNG files are looked for there")
        self.names = read_categories(content)
        try:
            self.records = {record["image_id"]: record for record in content["annotations"]}
            absent = [record for record in self.records.values() if "segments_info" not in record]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{annotations}: not a panoptic file: {error!r}") from error
        if absent:
            raise ValueError(f"{annotations}: not a panoptic file, its annotations have no 'segments_info'")
        self.images = list_images(images, content)
        self.made_by = f"panoptic {images.name} {annotations.name} {self.folder.name}"

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        """Key of image i."""
        return image_key(self.images[i][0]["file_name"])

    def __getitem__(self, i: int) -> Sample:
        """ValueError naming the file where the image or its segments do not decode or do not fit each other."""
        record, file = self.images[i]
        image, encoded = read_file(file)
        sample = Sample(self.key(i), image, {}, encoded)
        if record["id"] not in self.records:
            return sample
        segments = self.records[record["id"]]
        picture = image_file(self.folder, segments["file_name"])
        ids = read_ids(picture)
        if ids.shape != sample.size:
            raise ValueError(f"{picture}: size {ids.shape}, its image {file} has {sample.size}")
        try:
            found = instances_from_panoptic(ids, segments["segments_info"], self.names)
        except DECODE_ERRORS as error:
            raise ValueError(f"{picture} and {self.file}: {error!r}") from error
        if found is not None:
            sample.annotations["instances"] = found
        return sample
