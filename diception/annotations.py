"""Annotations: depth, normals, masks, instances, keypoints, labels, pictures; their geometry and their files."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from typing_extensions import Self

Size = tuple[int, int]
DepthSpace = Literal["depth", "disparity", "log"]

COCO_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
COCO_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
COCO_FLIP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


class Annotation(ABC):
    """What is known about an image. Geometry acts on the annotation, so that no task or transform repeats it."""

    kind: ClassVar[str]
    suffix: ClassVar[str]
    """Ending of the member in a shard and of a saved file."""
    size: Size
    """(H, W) in pixels."""

    @abstractmethod
    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        """The window [top, top + height) x [left, left + width)."""

    @abstractmethod
    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        """Exact nearest; `smooth` is for predictions: bilinear where values may be mixed."""

    @abstractmethod
    def hflip(self) -> Self:
        """The annotation of the mirror image."""

    @abstractmethod
    def to_array(self) -> NDArray[Any]:
        """The numbers: values, normals, masks, keypoints, labels or RGB."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """As stored in a shard under `suffix`."""

    @classmethod
    @abstractmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` gives."""


def nearest(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """(..., H, W) to (..., height, width): pixel i takes source pixel floor((i + .5) * source / target)."""
    rows, columns = array.shape[-2:]
    down = (2 * np.arange(height) + 1) * rows // (2 * height)
    across = (2 * np.arange(width) + 1) * columns // (2 * width)
    return np.ascontiguousarray(array[..., down[:, None], across])


def bilinear(array: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """(..., H, W) to (..., height, width) float32; antialiased where it shrinks."""
    planes = array.astype(np.float32).reshape(-1, *array.shape[-2:])
    resized = [Image.fromarray(p).resize((width, height), Image.Resampling.BILINEAR) for p in planes]
    return np.array(resized, np.float32).reshape(*array.shape[:-2], height, width)


def _window(array: NDArray[Any], top: int, left: int, height: int, width: int) -> NDArray[Any]:
    rows, columns = array.shape[-2:]
    if min(top, left, height - 1, width - 1) < 0 or top + height > rows or left + width > columns:
        raise ValueError(f"crop {(top, left, height, width)} (top, left, height, width) leaves size {(rows, columns)}")
    return np.ascontiguousarray(array[..., top : top + height, left : left + width])


def _mirror(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array[..., ::-1])


def _plane_size(array: NDArray[Any], leading: tuple[int | None, ...], what: str) -> Size:
    """(H, W) of an array whose leading axes are as given (None: any length)."""
    wrong = array.ndim != len(leading) + 2
    if wrong or any(want not in (None, have) for want, have in zip(leading, array.shape, strict=False)):
        allowed = ", ".join([str(n) if n is not None else "K" for n in leading] + ["H", "W"])
        raise ValueError(f"{what} have shape {array.shape}, expected ({allowed})")
    return array.shape[-2], array.shape[-1]


def _png(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def _from_png(data: bytes, mode: str | None = None) -> NDArray[Any]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image if mode is None else image.convert(mode))


@dataclass(eq=False)
class DepthMap(Annotation):
    """Depth in metres, invalid where 0, inf or nan; predictions are disparity or log depth up to scale and shift."""

    kind: ClassVar[str] = "depth"
    suffix: ClassVar[str] = "depth.npy"
    values: NDArray[np.float32]
    """(H, W)."""
    space: DepthSpace = "depth"
    size: Size = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.values = np.asarray(self.values, np.float32)
        self.size = _plane_size(self.values, (), "depth values")
        if self.space not in get_args(DepthSpace):
            raise ValueError(f"depth space is {self.space!r}, allowed are {', '.join(get_args(DepthSpace))}")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W), where the value means something."""
        finite = np.isfinite(self.values)
        return finite & (self.values > 0) if self.space == "depth" else finite

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, values=_window(self.values, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        if not smooth:
            return replace(self, values=nearest(self.values, height, width))
        valid = self.valid
        values = bilinear(np.where(valid, self.values, 0), height, width)
        if not valid.all():
            # Mean of the valid neighbours; a pixel most of whose neighbours are invalid is invalid.
            share = bilinear(valid, height, width)
            values = np.where(share > 0.5, values / np.maximum(share, 0.5), np.float32(np.nan))
        return replace(self, values=values)

    def hflip(self) -> Self:
        return replace(self, values=_mirror(self.values))

    def to_array(self) -> NDArray[Any]:
        return self.values

    def to_bytes(self) -> bytes:
        """float16 npy: a relative precision of 5e-4, up to 65 km. Only metric depth is stored."""
        if self.space != "depth":
            raise ValueError(f"only depth in metres is stored, this is {self.space}; save() writes any")
        with np.errstate(over="ignore"):  # beyond 65 km becomes inf: invalid
            return _npy(self.values.astype(np.float16))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        values = np.load(io.BytesIO(data), allow_pickle=False)
        return cls(values)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@dataclass(eq=False)
class NormalMap(Annotation):
    """Unit normals in camera axes: x right, y up, z towards the viewer (OpenGL); invalid where zero."""

    kind: ClassVar[str] = "normal"
    suffix: ClassVar[str] = "normal.png"
    normals: NDArray[np.float32]
    """(3, H, W)."""
    size: Size = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.normals = np.asarray(self.normals, np.float32)
        self.size = _plane_size(self.normals, (3,), "normals")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W), where there is a normal."""
        return (self.normals != 0).any(axis=0)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, normals=_window(self.normals, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        if not smooth:
            return replace(self, normals=nearest(self.normals, height, width))
        normals = bilinear(self.normals, height, width)
        length = np.linalg.norm(normals, axis=0)
        return replace(self, normals=np.where(length > 1e-3, normals / np.maximum(length, 1e-3), 0))

    def hflip(self) -> Self:
        mirrored = _mirror(self.normals)
        mirrored[0] = np.where(mirrored[0] == 0, 0, -mirrored[0])  # no negative zeros
        return replace(self, normals=mirrored)

    def to_array(self) -> NDArray[Any]:
        return self.normals

    def to_bytes(self) -> bytes:
        """8-bit png; (0, 0, 0) is invalid, a unit vector never rounds to it."""
        stored = np.clip(np.rint((self.normals + 1) * 127.5), 0, 255).astype(np.uint8)
        return _png(np.where(self.valid, stored, 0).astype(np.uint8).transpose(1, 2, 0))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        stored = _from_png(data, "RGB").transpose(2, 0, 1)
        normals = np.where(stored.any(axis=0), stored.astype(np.float32) / np.float32(127.5) - 1, 0)
        return cls(normals.astype(np.float32))


@dataclass(eq=False)
class BinaryMask(Annotation):
    """One region of an image."""

    kind: ClassVar[str] = "mask"
    suffix: ClassVar[str] = "mask.png"
    mask: NDArray[np.bool_]
    """(H, W)."""
    category: str | None = None
    """What is marked; not stored in the png."""
    size: Size = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.mask = np.asarray(self.mask, bool)
        self.size = _plane_size(self.mask, (), "masks")

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, mask=_window(self.mask, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        return replace(self, mask=_resize_masks(self.mask, height, width, smooth))

    def hflip(self) -> Self:
        return replace(self, mask=_mirror(self.mask))

    def to_array(self) -> NDArray[Any]:
        return self.mask

    def to_bytes(self) -> bytes:
        return _png(self.mask.astype(np.uint8) * np.uint8(255))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(_from_png(data, "L") > 127)


def _resize_masks(masks: NDArray[np.bool_], height: int, width: int, smooth: bool) -> NDArray[np.bool_]:
    return bilinear(masks, height, width) > 0.5 if smooth else nearest(masks, height, width)


@dataclass(eq=False)
class InstanceMasks(Annotation):
    """Objects of an image, each a mask; masks may overlap, there may be none."""

    kind: ClassVar[str] = "instances"
    suffix: ClassVar[str] = "instances.json"
    masks: NDArray[np.bool_]
    """(K, H, W)."""
    categories: tuple[str, ...]
    """One per mask; "" where unknown."""
    scores: NDArray[np.float32] | None = None
    """(K,), of predictions."""
    size: Size = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.masks = np.asarray(self.masks, bool)
        self.size = _plane_size(self.masks, (None,), "instance masks")
        self.categories = tuple(self.categories)
        if self.scores is not None:
            self.scores = np.asarray(self.scores, np.float32)
        scores = len(self) if self.scores is None else len(self.scores)
        if not len(self) == len(self.categories) == scores:
            raise ValueError(f"{len(self)} masks have {len(self.categories)} categories and {scores} scores")

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def areas(self) -> NDArray[np.int64]:
        """(K,) pixels of each mask."""
        return np.array([np.count_nonzero(mask) for mask in self.masks], np.int64)

    def select(self, chosen: NDArray[Any]) -> InstanceMasks:
        """The masks that a boolean (K,) or an array of indices picks."""
        indices = np.arange(len(self))[chosen]
        scores = None if self.scores is None else self.scores[indices]
        return InstanceMasks(self.masks[indices], tuple(self.categories[i] for i in indices), scores)

    def of_category(self, name: str) -> InstanceMasks:
        """The masks of one category."""
        return self.select(np.array([category == name for category in self.categories], bool))

    def union(self) -> BinaryMask:
        """All masks as one; its category is theirs where they share one."""
        names = set(self.categories)
        return BinaryMask(np.asarray(self.masks.any(axis=0)), names.pop() if len(names) == 1 else None)

    def _with(self, masks: NDArray[np.bool_]) -> Self:
        """These masks in place of the own ones; what has become empty is dropped."""
        kept = InstanceMasks(masks, self.categories, self.scores).select(np.flatnonzero(masks.any(axis=(1, 2))))
        return replace(self, masks=kept.masks, categories=kept.categories, scores=kept.scores)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        """Masks that lie outside are dropped."""
        return self._with(_window(self.masks, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        """Masks too small to be seen at the new size are dropped."""
        return self._with(_resize_masks(self.masks, height, width, smooth))

    def hflip(self) -> Self:
        return replace(self, masks=_mirror(self.masks))

    def to_array(self) -> NDArray[Any]:
        return self.masks

    def to_bytes(self) -> bytes:
        """JSON with COCO's compressed run lengths."""
        instances = []
        for index, rle in enumerate(encode_rle(self.masks)):
            score = None if self.scores is None else float(self.scores[index])
            entry = {"rle": rle["counts"].decode("ascii"), "category": self.categories[index], "score": score}
            instances.append(entry)
        return json.dumps({"size": list(self.size), "instances": instances}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        content = json.loads(data)
        height, width = (int(side) for side in content["size"])
        entries = content["instances"]
        rles = [{"size": [height, width], "counts": entry["rle"].encode("ascii")} for entry in entries]
        masks = coco_mask.decode(cast(Any, rles)).transpose(2, 0, 1) if rles else np.zeros((0, height, width))
        scores = [entry["score"] for entry in entries]
        known = len(scores) > 0 and all(score is not None for score in scores)
        categories = tuple(str(entry["category"]) for entry in entries)
        return cls(np.ascontiguousarray(masks, bool), categories, np.array(scores, np.float32) if known else None)


def encode_rle(masks: NDArray[np.bool_]) -> list[Any]:
    """COCO's compressed run lengths of (K, H, W) masks: {"size": [H, W], "counts": bytes} each."""
    return [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


@dataclass(eq=False)
class Keypoints(Annotation):
    """People as 17 COCO joints; the centre of the first pixel is (.5, .5)."""

    kind: ClassVar[str] = "pose"
    suffix: ClassVar[str] = "keypoints.json"
    people: NDArray[np.float32]
    """(N, 17, 3): x, y in pixels and visibility: 0 absent, 1 hidden, 2 seen; absent joints are (0, 0, 0)."""
    size: Size
    areas: NDArray[np.float32]
    """(N,) pixels of each person, as COCO scales its tolerance by; a crop leaves them."""
    scores: NDArray[np.float32] | None = None
    """(N,), of predictions."""

    def __post_init__(self) -> None:
        self.people = np.asarray(self.people, np.float32)
        self.areas = np.asarray(self.areas, np.float32)
        self.size = (int(self.size[0]), int(self.size[1]))
        if self.people.ndim != 3 or self.people.shape[1:] != (17, 3):
            raise ValueError(f"people have shape {self.people.shape}, expected (N, 17, 3)")
        if self.scores is not None:
            self.scores = np.asarray(self.scores, np.float32)
        scores = len(self) if self.scores is None else len(self.scores)
        if not len(self) == len(self.areas) == scores:
            raise ValueError(f"{len(self)} people have {len(self.areas)} areas and {scores} scores")

    def __len__(self) -> int:
        return len(self.people)

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N, 17), joints that are marked."""
        return self.people[..., 2] > 0

    def select(self, chosen: NDArray[Any]) -> Self:
        """The people that a boolean (N,) or an array of indices picks."""
        scores = None if self.scores is None else self.scores[chosen]
        return replace(self, people=self.people[chosen], areas=self.areas[chosen], scores=scores)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        """Joints outside become absent; people without any are dropped."""
        rows, columns = self.size
        if min(top, left, height - 1, width - 1) < 0 or top + height > rows or left + width > columns:
            raise ValueError(f"crop {(top, left, height, width)} (top, left, height, width) leaves size {self.size}")
        people = self.people - np.array([left, top, 0], np.float32)
        inside = (people[..., :2] >= 0).all(axis=-1) & (people[..., 0] < width) & (people[..., 1] < height)
        people = np.where((inside & self.visible)[..., None], people, 0)
        cropped = replace(self, people=people, size=(height, width))
        return cropped.select(np.flatnonzero(cropped.visible.any(axis=1)))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        scale = np.array([width / self.size[1], height / self.size[0], 1], np.float32)
        return replace(self, people=self.people * scale, areas=self.areas * scale.prod(), size=(height, width))

    def hflip(self) -> Self:
        people = self.people[:, COCO_FLIP].copy()
        people[..., 0] = np.where(people[..., 2] > 0, self.size[1] - people[..., 0], people[..., 0])
        return replace(self, people=people)

    def to_array(self) -> NDArray[Any]:
        return self.people

    def to_bytes(self) -> bytes:
        """JSON, coordinates to a thousandth of a pixel."""
        content = {
            "size": list(self.size),
            "people": np.round(self.people.astype(np.float64), 3).tolist(),
            "areas": np.round(self.areas.astype(np.float64), 3).tolist(),
            "scores": None if self.scores is None else self.scores.tolist(),
        }
        return json.dumps(content).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        content = json.loads(data)
        people = np.array(content["people"], np.float32).reshape(-1, 17, 3)
        scores = content.get("scores")
        scores = None if scores is None else np.array(scores, np.float32)
        return cls(people, tuple(content["size"]), np.array(content["areas"], np.float32), scores)


@dataclass(eq=False)
class LabelMap(Annotation):
    """A class per pixel, 0 is the background."""

    kind: ClassVar[str] = "labels"
    suffix: ClassVar[str] = "labels.png"
    labels: NDArray[np.int32]
    """(H, W)."""
    names: tuple[str, ...] = ()
    """One per label; not stored in the png."""
    size: Size = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.labels = np.asarray(self.labels, np.int32)
        self.size = _plane_size(self.labels, (), "labels")
        self.names = tuple(self.names)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, labels=_window(self.labels, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        """Always nearest: labels do not mix."""
        return replace(self, labels=nearest(self.labels, height, width))

    def hflip(self) -> Self:
        return replace(self, labels=_mirror(self.labels))

    def to_array(self) -> NDArray[Any]:
        return self.labels

    def to_bytes(self) -> bytes:
        """16-bit png."""
        low, high = (int(self.labels.min()), int(self.labels.max())) if self.labels.size else (0, 0)
        if low < 0 or high > 65535:
            raise ValueError(f"labels are {low} to {high}, allowed is 0 to 65535")
        return _png(self.labels.astype(np.uint16))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(_from_png(data).astype(np.int32))


@dataclass(eq=False)
class RGBImage(Annotation):
    """A picture, where the task is to paint one."""

    kind: ClassVar[str] = "image"
    suffix: ClassVar[str] = "picture.png"
    rgb: NDArray[np.float32]
    """(3, H, W) in [0, 1]."""
    size: Size = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rgb = np.asarray(self.rgb, np.float32)
        self.size = _plane_size(self.rgb, (3,), "pictures")

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, rgb=_window(self.rgb, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        return replace(self, rgb=(bilinear if smooth else nearest)(self.rgb, height, width))

    def hflip(self) -> Self:
        return replace(self, rgb=_mirror(self.rgb))

    def to_array(self) -> NDArray[Any]:
        return self.rgb

    def to_bytes(self) -> bytes:
        """8-bit png."""
        return _png(np.clip(np.rint(self.rgb * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(_from_png(data, "RGB").transpose(2, 0, 1).astype(np.float32) / np.float32(255))


KINDS: dict[str, type[Annotation]] = {
    cls.kind: cls for cls in (DepthMap, NormalMap, BinaryMask, InstanceMasks, Keypoints, LabelMap, RGBImage)
}


def save(annotation: Annotation, path: str | Path) -> None:
    """Writes the file that `load` reads; depth in full precision and in any space (which the file does not name)."""
    data = _npy(annotation.values) if isinstance(annotation, DepthMap) else annotation.to_bytes()
    Path(path).write_bytes(data)


def load(kind: str, path: str | Path) -> Annotation:
    """Reads an annotation of a kind from its file."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not known, allowed are {', '.join(KINDS)}")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    return KINDS[kind].from_bytes(Path(path).read_bytes())
