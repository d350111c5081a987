"""What every annotation can do, and the operations on arrays that they share."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from typing_extensions import Self

Size = tuple[int, int]
MAX_PIXELS = 100_000_000
"""A small file can claim to be a huge picture; nothing above this is decoded."""
DepthSpace = Literal["depth", "disparity", "log"]


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
    def turn(self) -> Self:
        """The annotation of the image after a quarter turn, anticlockwise."""

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


def nearest_index(source: int, target: int) -> NDArray[np.int64]:
    """(target,): pixel i takes source pixel floor((i + .5) * source / target)."""
    return (2 * np.arange(target) + 1) * source // (2 * target)


def nearest(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """(..., H, W) to (..., height, width) by `nearest_index`."""
    rows, columns = array.shape[-2:]
    # One axis after the other is several times as fast as both at once; OpenCV's exact nearest takes other pixels.
    return array.take(nearest_index(rows, height), axis=-2).take(nearest_index(columns, width), axis=-1)


def bilinear(array: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """(..., H, W) to (..., height, width) float32; antialiased where it shrinks."""
    planes = array.astype(np.float32).reshape(-1, *array.shape[-2:])
    resized = [Image.fromarray(p).resize((width, height), Image.Resampling.BILINEAR) for p in planes]
    return np.array(resized, np.float32).reshape(*array.shape[:-2], height, width)


def check_window(size: Size, top: int, left: int, height: int, width: int) -> None:
    """ValueError where a window leaves the size."""
    if min(top, left, height - 1, width - 1) < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f"crop {(top, left, height, width)} (top, left, height, width) leaves size {size}")


def window(array: NDArray[Any], top: int, left: int, height: int, width: int) -> NDArray[Any]:
    check_window(array.shape[-2:], top, left, height, width)
    return np.ascontiguousarray(array[..., top : top + height, left : left + width])


def mirror(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array[..., ::-1])


def turned(array: NDArray[Any]) -> NDArray[Any]:
    """(..., H, W) to (..., W, H), a quarter turn anticlockwise."""
    return np.ascontiguousarray(np.rot90(array, axes=(-2, -1)))


def plane_size(array: NDArray[Any], leading: tuple[int | None, ...], what: str) -> Size:
    """(H, W) of an array whose leading axes are as given (None: any length)."""
    wrong = array.ndim != len(leading) + 2
    if wrong or any(want not in (None, have) for want, have in zip(leading, array.shape, strict=False)):
        allowed = ", ".join([str(n) if n is not None else "K" for n in leading] + ["H", "W"])
        raise ValueError(f"{what} have shape {array.shape}, expected ({allowed})")
    return array.shape[-2], array.shape[-1]


def to_png(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def from_png(data: bytes, mode: str | None = None) -> NDArray[Any]:
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"picture has {image.width} x {image.height} pixels, at most {MAX_PIXELS} are allowed")
        return np.array(image if mode is None else image.convert(mode))


def to_npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
