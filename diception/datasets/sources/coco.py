"""COCO: instances and person keypoints to samples; of crowds only what evaluation must know is kept."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from diception.annotations import Annotation, InstanceMasks, Keypoints
from diception.annotations.runs import read_runs
from diception.datasets.images import read_file
from diception.datasets.sample import Sample

Record = Mapping[str, Any]
NEEDED: Mapping[str, Mapping[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int},
    "categories": {"id": int, "name": str},
}
"""What every record of a file must have."""


def read_json(path: Path) -> dict[str, Any]:
    """A COCO file; ValueError naming it where it is missing, not JSON or has no images and annotations."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{path}: not a COCO file, it must have 'images' and 'annotations'")
    for kind, needed in NEEDED.items():
        _check_records(content.get(kind, []), kind, needed, path)
    return content


def _check_records(records: Any, kind: str, needed: Mapping[str, type], path: Path) -> None:
    if not isinstance(records, list):
        raise ValueError(f"{path}: '{kind}' is a {type(records).__name__}, it must be a list")
    for record in records:
        for key, wanted in needed.items():
            if not isinstance(record, dict) or type(record.get(key)) is not wanted:
                what = {int: "a whole number", str: "a text"}[wanted]
                raise ValueError(f"{path}: one of '{kind}' needs {what} as '{key}': {repr(record)[:100]}")


def read_categories(content: Mapping[str, Any]) -> dict[int, str]:
    """Names by id, of what `read_json` gave."""
    return {category["id"]: category["name"] for category in content.get("categories", [])}


def category_name(names: Mapping[int, str], number: Any) -> str:
    if type(number) is not int or number not in names:
        raise ValueError(f"category_id {number!r} is none of the {len(names)} ids, whole numbers, of 'categories'")
    return names[number]


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool of COCO polygons, uncompressed or compressed run lengths.

    Raises:
        ValueError: run lengths that do not fill the image, polygons that are no numbers or far outside of it.
    """
    if isinstance(segmentation, list):
        return _polygons(segmentation, size)
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, list | str | bytes):
        raise ValueError(f"a segmentation must be polygons, or a dictionary with counts, not {segmentation!r:.80}")
    if tuple(segmentation.get("size", size)) != size:
        raise ValueError(f"a mask has size {segmentation['size']}, its image {size}")
    if isinstance(counts, list):
        lengths = np.array(counts)
        if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or lengths.min(initial=0) < 0:
            raise ValueError("run lengths must be whole numbers from 0 on")
        if lengths.max(initial=0) > size[0] * size[1] or lengths.sum() != size[0] * size[1]:
            raise ValueError(f"run lengths sum to {lengths.sum()}, the image has {size[0] * size[1]} pixels")
        return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size[::-1]).T
    mask = np.zeros(size, bool)
    runs = read_runs(counts.decode("ascii") if isinstance(counts, bytes) else counts, size)
    runs.paint(np.arange(size[0]), np.arange(size[1]), mask)
    return mask


def _polygons(polygons: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of polygons [x, y, x, y, ...]; pycocotools checks none of its numbers."""
    side = max(size)
    for polygon in polygons:
        places = np.array(polygon)
        if places.dtype.kind not in "iuf" or places.ndim != 1 or len(places) % 2 or not np.isfinite(places).all():
            raise ValueError("a polygon must be a list of finite numbers x, y, x, y, ...")
        if len(places) and (places.min() < -side or places.max() > 2 * side):
            raise ValueError(f"a polygon reaches from {places.min():g} to {places.max():g}, its image is {size}")
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    if not drawn:
        return np.zeros(size, bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(drawn, *size))).astype(bool)


def instances_from_coco(
    records: Sequence[Record], size: tuple[int, int], names: Mapping[int, str]
) -> InstanceMasks | None:
    """Masks of an image, in the order of the file; None where nothing but crowds or empty masks is marked."""
    masks, categories, unmarked = [], [], set()
    for record in records:
        name = category_name(names, record["category_id"])
        mask = None if record.get("iscrowd", 0) else decode_segmentation(record["segmentation"], size)
        if mask is None or not mask.any():
            unmarked.add(name)
        else:
            masks.append(mask)
            categories.append(name)
    return InstanceMasks(np.stack(masks), tuple(categories), None, tuple(sorted(unmarked))) if masks else None


def keypoints_from_coco(records: Sequence[Record], size: tuple[int, int]) -> Keypoints | None:
    """People with at least one marked joint; None where there are none.

    COCO counts pixels from 0, so that the centre of the first pixel is (0, 0); here it is (0.5, 0.5).
    """
    people, areas, ignored = [], [], []
    for record in records:
        points = np.asarray(record["keypoints"], dtype=np.float32)
        if points.shape != (51,):
            raise ValueError(f"a person has {points.size} keypoint numbers, 51 (17 joints) are needed")
        points = points.reshape(17, 3)
        crowd = bool(record.get("iscrowd", 0))
        if crowd or not (points[:, 2] > 0).any():
            if "bbox" in record:
                left, top, width, height = record["bbox"]
                ignored.append((left + 0.5, top + 0.5, width, height, record["area"], crowd))
            continue
        points[:, :2] += np.where(points[:, 2:] > 0, np.float32(0.5), np.float32(0))
        people.append(points)
        areas.append(float(record["area"]))
    if not people:
        return None
    regions = np.array(ignored, np.float32).reshape(-1, 6)
    return Keypoints(np.stack(people), size, np.array(areas, np.float32), None, regions)


def _by_image(content: Mapping[str, Any]) -> dict[int, list[Record]]:
    grouped: dict[int, list[Record]] = defaultdict(list)
    for record in content["annotations"]:
        grouped[record["image_id"]].append(record)
    return grouped


def image_file(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"image name {name!r} leaves the folder {folder}")
    return folder / name


def image_key(name: str) -> str:
    """A sample's key: the image's path without its ending, in characters that a tar's members may have."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", PurePosixPath(name).with_suffix("").as_posix())


def list_images(images: Path, content: Mapping[str, Any]) -> list[tuple[Record, Path]]:
    """The file's images in the order of their ids; ValueError with the number and an example where some are absent."""
    records = sorted(content["images"], key=lambda record: record["id"])
    files = [image_file(images, record["file_name"]) for record in records]
    keys = Counter(image_key(record["file_name"]) for record in records)
    if repeated := [key for key, count in keys.items() if count > 1]:
        raise ValueError(f"{len(repeated)} keys belong to several images, the first is {repeated[0]!r}")
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise ValueError(f"{len(absent)} of {len(files)} images are not there, the first is {absent[0]}")
    return list(zip(records, files, strict=True))


class CocoData:
    """Images with "instances" and "pose" where they have any: COCO 2017, COCO-ReM and what else has this format."""

    def __init__(self, images: Path, instances: Path, keypoints: Path | None = None) -> None:
        content = read_json(instances)
        self.file = instances
        self.names = read_categories(content)
        self.masks = _by_image(content)
        self.people = _by_image(read_json(keypoints)) if keypoints is not None else {}
        self.images = list_images(images, content)
        self.made_by = f"coco {' '.join(path.name for path in (images, instances, keypoints) if path)}"

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        """Key of image i."""
        return image_key(self.images[i][0]["file_name"])

    def __getitem__(self, i: int) -> Sample:
        """ValueError naming the file where the image does not decode or the annotations do not fit it."""
        record, file = self.images[i]
        image, encoded = read_file(file)
        size = (image.shape[0], image.shape[1])
        said = (record.get("height"), record.get("width"))
        if size != said:
            raise ValueError(f"{file}: size {size}, {self.file} says {said}")
        annotations: dict[str, Annotation] = {}
        try:
            found = instances_from_coco(self.masks.get(record["id"], []), size, self.names)
            pose = keypoints_from_coco(self.people.get(record["id"], []), size)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.file}: annotations of image {record['id']}: {error!r}") from error
        if found is not None:
            annotations["instances"] = found
        if pose is not None:
            annotations["pose"] = pose
        return Sample(self.key(i), image, annotations, encoded)
