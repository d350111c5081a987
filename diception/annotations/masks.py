"""One mask, or the masks of many instances."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from diception.annotations.base import (
    MAX_PIXELS,
    Annotation,
    Size,
    bilinear,
    check_window,
    from_png,
    mirror,
    nearest,
    nearest_index,
    plane_size,
    to_png,
    turned,
    window,
)
from diception.annotations.runs import StoredMasks, read_runs, select_masks

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_VALUES = 4_000_000_000
"""A few bytes of run lengths can claim to be huge masks; nothing above this is decoded."""


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
        _check_categories([self.category] if self.category is not None else [])
        self.mask = np.asarray(self.mask, bool)
        self.size = plane_size(self.mask, (), "masks")

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, mask=window(self.mask, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        return replace(self, mask=_resize_masks(self.mask, height, width, smooth))

    def hflip(self) -> Self:
        return replace(self, mask=mirror(self.mask))

    def turn(self) -> Self:
        return replace(self, mask=turned(self.mask))

    def to_array(self) -> NDArray[Any]:
        return self.mask

    def to_bytes(self) -> bytes:
        return to_png(self.mask.astype(np.uint8) * np.uint8(255))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(from_png(data, "L") > 127)


def _check_categories(categories: Iterable[Any]) -> None:
    for category in categories:
        if not isinstance(category, str):
            raise ValueError(f"category {category!r} is of type {type(category).__name__}, allowed are texts")


def _resize_masks(masks: NDArray[np.bool_], height: int, width: int, smooth: bool) -> NDArray[np.bool_]:
    """(..., H, W), one mask after another: numbers in place of bits would take 4 bytes a pixel of each."""
    if not smooth:
        return nearest(masks, height, width)
    resized = np.empty((*masks.shape[:-2], height, width), bool)
    for index in np.ndindex(masks.shape[:-2]):
        resized[index] = bilinear(masks[index], height, width) > 0.5
    return resized


@dataclass(eq=False)
class InstanceMasks(Annotation):
    """Objects of an image, each a mask; masks may overlap, there may be none.

    Masks that come from a shard are painted when they are first asked for: of a large picture that is cropped and made
    smaller, only the pixels that are left.
    """

    kind: ClassVar[str] = "instances"
    suffix: ClassVar[str] = "instances.json"
    masks: NDArray[np.bool_]
    """(K, H, W)."""
    categories: tuple[str, ...]
    """One per mask; "" where unknown."""
    scores: NDArray[np.float32] | None = field(default_factory=lambda: None)
    """(K,), of predictions. No plain default: that would hide it from `__getattr__`."""
    unmarked: tuple[str, ...] = ()
    """Categories of which there is more than the masks mark, such as a crowd."""
    size: Size = field(init=False, repr=False)
    _stored: StoredMasks | None = field(default=None, init=False, repr=False)
    """What the fields are painted from, until they are."""

    def __post_init__(self) -> None:
        self.masks = np.asarray(self.masks, bool)
        self.size = plane_size(self.masks, (None,), "instance masks")
        self.categories = tuple(self.categories)
        _check_categories(self.categories)
        if self.scores is not None:
            self.scores = np.asarray(self.scores, np.float32)
        scores = len(self) if self.scores is None else len(self.scores)
        if not len(self) == len(self.categories) == scores:
            raise ValueError(f"{len(self)} masks have {len(self.categories)} categories and {scores} scores")

    def __len__(self) -> int:
        return len(self.masks)

    def __getattr__(self, name: str) -> Any:
        """Paints what is stored when one of the fields is asked for."""
        if name not in ("masks", "categories", "scores") or self._stored is None:
            raise AttributeError(name)
        for field_name, value in self._stored.paint().items():
            setattr(self, field_name, value)
        self._stored = None
        return getattr(self, name)

    @classmethod
    def _of(cls, stored: StoredMasks, unmarked: tuple[str, ...]) -> Self:
        made = cls.__new__(cls)
        made._stored, made.size, made.unmarked = stored, (len(stored.rows), len(stored.columns)), unmarked
        return made

    @property
    def areas(self) -> NDArray[np.int64]:
        """(K,) pixels of each mask."""
        if self._stored is not None and self._stored.whole:
            return np.array([runs.area for runs in self._stored.runs], np.int64)
        return np.array([np.count_nonzero(mask) for mask in self.masks], np.int64)

    def select(self, chosen: NDArray[Any]) -> InstanceMasks:
        """The masks that a boolean (K,) or an array of indices picks."""
        fields = {"masks": self.masks, "categories": self.categories, "scores": self.scores}
        return InstanceMasks(**select_masks(fields, np.arange(len(self))[chosen]), unmarked=self.unmarked)

    def of_category(self, name: str) -> InstanceMasks:
        """The masks of one category."""
        return self.select(np.array([category == name for category in self.categories], bool))

    def union(self) -> BinaryMask:
        """All masks as one; its category is theirs where they share one."""
        names = set(self.categories)
        return BinaryMask(np.asarray(self.masks.any(axis=0)), names.pop() if len(names) == 1 else None)

    def _view(self, rows: Any, columns: Any, whole: bool = False) -> Self | None:
        """These rows and columns of what is stored; None where it is painted already."""
        if self._stored is None:
            return None
        stored = self._stored
        whole = whole and stored.whole
        view = replace(stored, rows=stored.rows[rows], columns=stored.columns[columns], whole=whole)
        return self._of(view, self.unmarked)

    def _with(self, masks: NDArray[np.bool_]) -> Self:
        """These masks in place of the own ones; what has become empty is dropped."""
        marked = np.array([mask.any() for mask in masks], bool)
        if marked.all():
            return replace(self, masks=masks)
        kept = InstanceMasks(masks, self.categories, self.scores).select(marked)
        return replace(self, masks=kept.masks, categories=kept.categories, scores=kept.scores)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        """Masks that lie outside are dropped."""
        check_window(self.size, top, left, height, width)
        view = self._view(slice(top, top + height), slice(left, left + width))
        return view if view is not None else self._with(window(self.masks, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        """Masks too small to be seen at the new size are dropped."""
        rows, columns = self.size
        view = None if smooth else self._view(nearest_index(rows, height), nearest_index(columns, width))
        return view if view is not None else self._with(_resize_masks(self.masks, height, width, smooth))

    def hflip(self) -> Self:
        view = self._view(slice(None), slice(None, None, -1), whole=True)
        return view if view is not None else replace(self, masks=mirror(self.masks))

    def turn(self) -> Self:
        return replace(self, masks=turned(self.masks))

    def to_array(self) -> NDArray[Any]:
        return self.masks

    def to_bytes(self) -> bytes:
        """JSON with COCO's compressed run lengths."""
        instances = []
        for index, rle in enumerate(encode_rle(self.masks)):
            score = None if self.scores is None else float(self.scores[index])
            entry = {"rle": rle["counts"].decode("ascii"), "category": self.categories[index], "score": score}
            instances.append(entry)
        content = {"size": list(self.size), "instances": instances}
        return json.dumps(content | ({"unmarked": self.unmarked} if self.unmarked else {})).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        content = json.loads(data)
        height, width = (int(side) for side in content["size"])
        entries = content["instances"]
        if min(height, width) < 1 or height * width > MAX_PIXELS or len(entries) * height * width > MAX_VALUES:
            raise ValueError(
                f"{len(entries)} masks of {height} x {width} pixels; at most {MAX_VALUES} values are read, of 1 to "
                f"{MAX_PIXELS} pixels a mask"
            )
        runs = [read_runs(entry["rle"], (height, width)) for entry in entries]
        scores = [entry["score"] for entry in entries]
        known = len(scores) > 0 and all(score is not None for score in scores)
        categories, unmarked = tuple(entry["category"] for entry in entries), tuple(content.get("unmarked", ()))
        _check_categories((*categories, *unmarked))
        found = np.array(scores, np.float32) if known else None
        return cls._of(StoredMasks(runs, categories, found, np.arange(height), np.arange(width)), unmarked)


def encode_rle(masks: NDArray[np.bool_]) -> list[Any]:
    """COCO's compressed run lengths of (K, H, W) masks: {"size": [H, W], "counts": bytes} each."""
    return [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
