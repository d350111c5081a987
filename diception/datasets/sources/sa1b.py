"""SA-1B: an image and a JSON of masks beside it, without categories, to samples."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from diception.annotations import InstanceMasks
from diception.datasets.images import DECODE_ERRORS, read_file
from diception.datasets.sample import Sample
from diception.datasets.sources.coco import decode_segmentation


def instances_from_sa1b(records: list[Any], size: tuple[int, int], min_area: float = 0.0) -> InstanceMasks | None:
    """Masks in the order of the file, without empty ones and those below a share of the image; None: none is left."""
    masks = np.empty((len(records), *size), bool)
    count = 0
    for record in records:
        masks[count] = decode_segmentation(record["segmentation"], size)
        count += bool(masks[count].any() and masks[count].mean() >= min_area)
    return InstanceMasks(masks[:count], ("",) * count) if count else None


class Sa1bData:
    """Images `sa_NUMBER.jpg` with `sa_NUMBER.json`; the folder is listed once and nothing else is read at the start."""

    def __init__(self, images: Path, min_area: float = 0.0) -> None:
        """`min_area`: masks below this share of their image are left out."""
        if not 0 <= min_area < 1:
            raise ValueError(f"min_area is {min_area}, allowed is 0 to less than 1")
        if not images.is_dir():
            raise ValueError(f"{images}: no such folder")
        names = {name for name in os.listdir(images) if re.fullmatch(r"sa_[0-9A-Za-z_-]+\.(jpg|json)", name)}
        pictures = {name[:-4] for name in names if name.endswith(".jpg")}
        lists = {name[:-5] for name in names if name.endswith(".json")}
        # By number: names of one length first.
        self.stems = sorted(pictures & lists, key=lambda stem: (len(stem), stem))
        self.alone = sorted(pictures ^ lists)
        """Images without a JSON and the other way round, left out."""
        if not self.stems:
            raise ValueError(
                f"{images}: no sa_*.jpg has its sa_*.json ({len(pictures)} images, {len(lists)} JSON files)"
            )
        self.folder, self.min_area = images, min_area
        self.made_by = f"sa1b {images.name} min area {min_area:g}"

    def __len__(self) -> int:
        return len(self.stems)

    def key(self, i: int) -> str:
        """Key of image i."""
        return self.stems[i]

    def __getitem__(self, i: int) -> Sample:
        """ValueError naming the file where the image or its masks do not decode or do not fit each other."""
        image, encoded = read_file(self.folder / f"{self.stems[i]}.jpg")
        sample = Sample(self.key(i), image, {}, encoded)
        file = self.folder / f"{self.stems[i]}.json"
        try:
            records = json.loads(file.read_bytes())["annotations"]
            found = instances_from_sa1b(records, sample.size, self.min_area)
        except DECODE_ERRORS as error:
            raise ValueError(f"{file}: {error!r}") from error
        if found is not None:
            sample.annotations["instances"] = found
        return sample
