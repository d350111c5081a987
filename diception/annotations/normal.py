"""Maps of surface normals."""

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
class NormalMap(Annotation):
    """Unit normals in camera axes: x right, y up, z towards the viewer (OpenGL); invalid where zero."""

    kind: ClassVar[str] = "normal"
    suffix: ClassVar[str] = "normal.png"
    normals: NDArray[np.float32]
    """(3, H, W)."""
    size: Size = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.normals = np.asarray(self.normals, np.float32)
        self.size = plane_size(self.normals, (3,), "normals")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W), where there is a normal."""
        return (self.normals != 0).any(axis=0)

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, normals=window(self.normals, top, left, height, width))

    def resize(self, height: int, width: int, smooth: bool = False) -> Self:
        if not smooth:
            return replace(self, normals=nearest(self.normals, height, width))
        normals = bilinear(self.normals, height, width)
        length = np.linalg.norm(normals, axis=0)
        return replace(self, normals=np.where(length > 1e-3, normals / np.maximum(length, 1e-3), 0))

    def hflip(self) -> Self:
        mirrored = mirror(self.normals)
        mirrored[0] = np.where(mirrored[0] == 0, 0, -mirrored[0])  # no negative zeros
        return replace(self, normals=mirrored)

    def turn(self) -> Self:
        right, up, back = turned(self.normals)
        return replace(self, normals=np.stack([np.where(up == 0, 0, -up), right, back]))

    def to_array(self) -> NDArray[Any]:
        return self.normals

    def to_bytes(self) -> bytes:
        """8-bit png; (0, 0, 0) is invalid, a unit vector never rounds to it."""
        stored = np.clip(np.rint((self.normals + 1) * 127.5), 0, 255).astype(np.uint8)
        return to_png(np.where(self.valid, stored, 0).astype(np.uint8).transpose(1, 2, 0))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        stored = np.ascontiguousarray(from_png(data, "RGB").transpose(2, 0, 1))
        normals = np.divide(stored, 127.5, dtype=np.float32)
        normals -= 1
        np.copyto(normals, 0, where=(stored[0] | stored[1] | stored[2]) == 0)
        return cls(normals)
