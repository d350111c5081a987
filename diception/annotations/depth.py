"""Depth maps."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from diception.annotations.base import (
    Annotation,
    DepthSpace,
    Size,
    bilinear,
    mirror,
    nearest,
    plane_size,
    to_npy,
    turned,
    window,
)

if TYPE_CHECKING:
    from typing_extensions import Self


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
        self.size = plane_size(self.values, (), "depth values")
        if self.space not in get_args(DepthSpace):
            raise ValueError(f"depth space is {self.space!r}, allowed are {', '.join(get_args(DepthSpace))}")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W), where the value means something."""
        finite = np.isfinite(self.values)
        return finite & (self.values > 0) if self.space == "depth" else finite

    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        return replace(self, values=window(self.values, top, left, height, width))

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
        return replace(self, values=mirror(self.values))

    def turn(self) -> Self:
        return replace(self, values=turned(self.values))

    def to_array(self) -> NDArray[Any]:
        return self.values

    def to_bytes(self) -> bytes:
        """float16 npy: a relative precision of 5e-4, up to 65 km. Only metric depth is stored."""
        if self.space != "depth":
            raise ValueError(f"only depth in metres is stored, this is {self.space}; save() writes any")
        with np.errstate(over="ignore"):  # beyond 65 km becomes inf: invalid
            return to_npy(self.values.astype(np.float16))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        values = np.load(io.BytesIO(data), allow_pickle=False)
        return cls(values)
