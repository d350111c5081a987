"""Label maps and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations.base import (
    Annotation,
    Size,
    bilinear,
    from_png,
    mirror,
    nearest,
    plane_size,
    to_png,
    turned,
    window,
)

if TYPE_CHECKING:
    from typing_extensions import Self


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
        self.size = plane_size(self.labels, (), "labels")
        self.names = tuple(self.names)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, labels=window(self.labels, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        """Always nearest: labels do not mix."""
        return replace(self, labels=nearest(self.labels, height, width))

    def hflip(self) -> Self:
        return replace(self, labels=mirror(self.labels))

    def turn(self) -> Self:
        return replace(self, labels=turned(self.labels))

    def to_array(self) -> NDArray[Any]:
        return self.labels

    def to_bytes(self) -> bytes:
        """16-bit png."""
        low, high = (int(self.labels.min()), int(self.labels.max())) if self.labels.size else (0, 0)
        if low < 0 or high > 65535:
            raise ValueError(f"labels are {low} to {high}, allowed is 0 to 65535")
        return to_png(self.labels.astype(np.uint16))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(from_png(data).astype(np.int32))


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
        self.size = plane_size(self.rgb, (3,), "pictures")

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, rgb=window(self.rgb, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        return replace(self, rgb=(bilinear if smooth else nearest)(self.rgb, height, width))

    def hflip(self) -> Self:
        return replace(self, rgb=mirror(self.rgb))

    def turn(self) -> Self:
        return replace(self, rgb=turned(self.rgb))

    def to_array(self) -> NDArray[Any]:
        return self.rgb

    def to_bytes(self) -> bytes:
        """8-bit png."""
        return to_png(np.clip(np.rint(self.rgb * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        stored = np.ascontiguousarray(from_png(data, "RGB").transpose(2, 0, 1))
        return cls(np.divide(stored, 255, dtype=np.float32))
