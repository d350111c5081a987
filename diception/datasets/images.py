"""Image bytes and files to arrays and back, with a limit on size and one kind of error for what is broken."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diception.annotations.base import MAX_PIXELS

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
DECODE_ERRORS = (
    *(ValueError, OSError, EOFError, KeyError, IndexError, TypeError, AttributeError, SyntaxError, OverflowError),
    *(MemoryError, RecursionError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow, numpy, json and pycocotools raise on broken bytes: SyntaxError on a broken PNG chunk, MemoryError on a
broken npy header, RecursionError on JSON of many brackets."""

MULTIPLE = 16
"""Sides are multiples of this: 8 pixels a latent cell, 2 cells a patch."""

DARK = 4096
"""A 16-bit picture all of whose values are below is of a camera of 12 bits, and was not scaled."""

MUCH = 1.5
"""An axis that shrinks less is read between two pixels, which misses none and takes a fraction of the time."""

ORIENTATION = 0x0112
"""EXIF's tag; from 5 on the sides change places."""

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Pillow's names and the endings of members."""
ImageFormat = Literal["jpg", "png"]


def open_image(source: bytes | Path) -> Image.Image:
    """Decode fully, whatever the mode. ValueError, naming the file where there is one, if that is not possible."""
    where = f"{source}: " if isinstance(source, Path) else ""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            _check_pixels(image)
            image.load()
            return image
    except FileNotFoundError as error:
        raise ValueError(f"{where}no such file") from error
    except DECODE_ERRORS as error:
        raise ValueError(f"{where}image does not decode: {error}") from error


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"image has {image.width} x {image.height} pixels, at most {MAX_PIXELS} are allowed")


def _orientation(image: Image.Image) -> int:
    """1 to 8, of an image that is opened and not loaded: what Pillow does not turn by itself, as it does TIFF."""
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) and image.format != "TIFF" else 1


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file as a viewer shows it, from its head alone."""
    try:
        with Image.open(path) as image:
            return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)
    except DECODE_ERRORS as error:
        raise ValueError(f"{path}: image does not decode: {error}") from error


def own_size(size: tuple[int, int], least: int, zoom: float = 1.0) -> tuple[int, int]:
    """(h, w) of nearly `zoom` times an image's own size (H, W), multiples of 16, and no side below `least`."""
    scale = max(zoom, least / min(size))
    height, width = (max(least, round(side * scale / MULTIPLE) * MULTIPLE) for side in size)
    if height * width > MAX_PIXELS:
        raise ValueError(f"image enlarged {zoom} times has {width} x {height} pixels, at most {MAX_PIXELS} are allowed")
    return height, width


def resample(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) to (height, width, 3): bilinear; an axis that shrinks much by the mean of what a pixel covers."""
    rows, columns = image.shape[:2]
    smaller = (
        width if columns > MUCH * width else columns,
        height if rows > MUCH * height else rows,
    )
    for size, method in ((smaller, cv2.INTER_AREA), ((width, height), cv2.INTER_LINEAR)):
        if image.shape[1::-1] != size:
            image = np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
    return image


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 as a viewer shows it: turned by its EXIF orientation, 16 bits scaled to 8, alpha dropped."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.size and 0 < values.max() < DARK:
            warnings.warn("a 16-bit picture is nearly black: white is 65535; scale pictures of 12 bits", stacklevel=2)
        grey = (values.astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise ValueError(f"image has pixel type {image.mode!r}, allowed are 8-bit images and 16-bit grey")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image)


def read_image(source: bytes | Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of encoded bytes or a file; a ValueError names the file."""
    image = open_image(source)
    try:
        return to_rgb(image)
    except ValueError as error:
        raise ValueError(f"{source}: {error}" if isinstance(source, Path) else str(error)) from error


def read_reduced(
    data: bytes, at_least: int
) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[float, float, float, float]]:
    """`read_image` at 1, 1/2, 1/4 or 1/8 of its scale, with both sides at least `at_least` where they are as stored.

    Only JPEG can be decoded smaller; all else comes as stored.

    Returns:
        (h, w, 3) uint8; (H, W) as stored; and (left, top, right, bottom) of the stored picture in the decoded one: a
        side that the scale does not divide ends inside its last pixel.
    """
    if at_least < 1:
        raise ValueError(f"at_least is {at_least}, at least 1 is needed")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            _check_pixels(image)
            drafted = image.draft(image.mode, (at_least, at_least))
            across, down = drafted[1][2:] if drafted is not None else (width, height)
            turn = _orientation(image)
            image.load()
            decoded = to_rgb(image)
    except DECODE_ERRORS as error:
        raise ValueError(f"image does not decode: {error}") from error
    if turn >= 5:
        width, height, across, down = height, width, down, across
    # What is turned or mirrored has its incomplete pixels on the other side.
    left = decoded.shape[1] - across if turn in (2, 3, 6, 7) else 0.0
    top = decoded.shape[0] - down if turn in (3, 4, 7, 8) else 0.0
    return decoded, (height, width), (left, top, left + across, top + down)


def read_file(path: Path) -> tuple[NDArray[np.uint8], tuple[str, bytes] | None]:
    """(H, W, 3) uint8 of a file; and its ending and bytes where a viewer that knows no orientation shows the same."""
    data = path.read_bytes()
    try:
        image = open_image(data)
        suffix = FORMATS.get(image.format or "") if image.mode == "RGB" else None
        plain = suffix is not None and image.getexif().get(ORIENTATION, 1) == 1
        return to_rgb(image), (str(suffix), data) if plain else None
    except DECODE_ERRORS as error:
        raise ValueError(f"{path}: {error}") from error


def encode_rgb(image: NDArray[np.uint8], image_format: ImageFormat) -> bytes:
    """(H, W, 3) uint8 to bytes: jpg at quality 95 with full colour resolution, or png without loss."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    buffer = io.BytesIO()
    if image_format == "jpg":
        Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    elif image_format == "png":
        Image.fromarray(image).save(buffer, "PNG", compress_level=4)
    else:
        raise ValueError(f"image format {image_format!r} is not known, allowed are 'jpg' and 'png'")
    return buffer.getvalue()
