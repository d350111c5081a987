"""Files of numbers as they are stored: 8- and 16-bit pictures, pictures of floats, npy, pfm, exr."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diception.annotations import NormalMap
from diception.annotations.base import MAX_PIXELS
from diception.datasets.images import DECODE_ERRORS, image_size

NO_EXR = "EXR needs `pip install 'diception[exr]'`; or convert the files to npy"


def read_array(path: Path) -> NDArray[Any]:
    """(H, W) or (H, W, C) numbers, colours in the order red, green, blue; npy in any shape.

    Raises:
        ValueError: names the file, where it does not decode.
    """
    try:
        suffix = path.suffix.lower()
        values = {".npy": _read_npy, ".pfm": _read_pfm, ".exr": _read_exr}.get(suffix, _read_picture)(path)
        if values.size == 0:
            raise ValueError(f"it holds no numbers, its shape is {values.shape}")
        return values
    except DECODE_ERRORS as error:
        reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
        raise ValueError(f"{path}: {reason}") from error


def read_vectors(path: Path) -> NDArray[np.float32]:
    """(3, H, W) as stored: npy as it is, pictures of 8 or 16 bits from -1 to 1. ValueError with the file."""
    values = read_array(path)
    if values.ndim == 3 and values.shape[0] != 3:
        values = values.transpose(2, 0, 1)
    if values.ndim == 3 and len(values) == 3 and values.dtype.kind == "f":
        return values.astype(np.float32)
    picture = path.suffix.lower() != ".npy"
    if values.ndim != 3 or len(values) != 3 or values.dtype not in (np.uint8, np.uint16) or not picture:
        allowed = "three channels of 8 or 16 bits, or of floats in an npy"
        raise ValueError(f"{path}: normals have {allowed}, got {values.shape} {values.dtype}")
    return np.asarray(values / (np.iinfo(values.dtype).max / 2) - 1, np.float32)


def unit_normals(vectors: NDArray[np.float32], axes: NDArray[np.float32] | None = None) -> NormalMap:
    """Vectors (3, H, W) at length 1, in our axes; far from that they are invalid: black, white, grey, nan.

    `axes`: (3, 3) that turns them into ours, where they are not.
    """
    length = np.linalg.norm(vectors, axis=0)
    with np.errstate(invalid="ignore"):
        kept = (length > 0.5) & (length < 1.5)
    clean = np.where(kept, vectors / np.where(kept, length, 1), 0)
    turned = clean if axes is None else np.einsum("ij,jhw->ihw", axes, clean)
    return NormalMap(turned.astype(np.float32) + np.float32(0))  # no negative zeros


def check_exr() -> None:
    """ValueError where the library that reads EXR is not installed."""
    if importlib.util.find_spec("OpenEXR") is None:
        raise ValueError(NO_EXR)


def _read_exr(path: Path) -> NDArray[Any]:
    """The one channel of a file, or its R, G and B."""
    check_exr()
    import OpenEXR

    with open(path, "rb") as file:
        if file.read(4) != b"\x76\x2f\x31\x01":
            raise ValueError("not an EXR file")
    try:
        low, high = (
            np.asarray(corner, int) for corner in OpenEXR.File(str(path), header_only=True).header()["dataWindow"]
        )
        if np.prod(high - low + 1) > MAX_PIXELS:
            raise ValueError(f"has {tuple(high - low + 1)} pixels, at most {MAX_PIXELS} are allowed")
        with OpenEXR.File(str(path), separate_channels=True) as image:
            planes = {name: np.array(channel.pixels) for name, channel in image.channels().items()}
    except RuntimeError as error:
        raise ValueError(f"does not decode: {error}") from error
    if {"R", "G", "B"} <= planes.keys():
        return np.stack([planes[name] for name in "RGB"], axis=-1)
    if len(planes) != 1:
        raise ValueError(f"has the channels {', '.join(planes)}; one, or R, G and B, are read")
    return next(iter(planes.values()))


def _read_npy(path: Path) -> NDArray[Any]:
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise ValueError("an npy file must hold one array of numbers")
    return values


def _read_pfm(path: Path) -> NDArray[np.float32]:
    """The numbers as they are: OpenCV divides them by the scale in the head, which data sets use for other things."""
    data = path.read_bytes()
    head = re.match(rb"(P[Ff])\s+(\d+)\s+(\d+)\s+([-+0-9.eE]+)\s", data)
    if head is None:
        raise ValueError("not a PFM file")
    width, height, channels = int(head[2]), int(head[3]), 3 if head[1] == b"PF" else 1
    wanted, found = 4 * width * height * channels, len(data) - head.end()
    if found != wanted:
        raise ValueError(f"holds {found} bytes of numbers, {width} x {height} x {channels} take {wanted}")
    values = np.frombuffer(data, "<f4" if float(head[4]) < 0 else ">f4", offset=head.end())
    rows = values.reshape((height, width) if channels == 1 else (height, width, channels))
    return rows[::-1].astype(np.float32)  # the last row comes first


def _read_picture(path: Path) -> NDArray[Any]:
    if np.prod(image_size(path)) > MAX_PIXELS:
        raise ValueError(f"has {image_size(path)} pixels, at most {MAX_PIXELS} are allowed")
    try:
        values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"does not decode: {error.err}") from error
    if values is None:
        raise ValueError("does not decode")
    return values if values.ndim == 2 else values[..., 2::-1]
