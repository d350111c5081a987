"""Files of numbers as they are stored: 8- and 16-bit pictures, pictures of floats, npy, pfm, exr."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diception.datasets.images import DECODE_ERRORS, MAX_PIXELS, image_size

NO_EXR = "this build of OpenCV does not read EXR; convert the files to npy"


def read_array(path: Path) -> NDArray[Any]:
    """(H, W) or (H, W, C) numbers, colours in the order red, green, blue; npy in any shape.

    Raises:
        ValueError: names the file, where it does not decode.
    """
    try:
        suffix = path.suffix.lower()
        values = {".npy": _read_npy, ".pfm": _read_pfm}.get(suffix, _read_picture)(path)
        if values.size == 0:
            raise ValueError(f"it holds no numbers, its shape is {values.shape}")
        return values
    except DECODE_ERRORS as error:
        reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
        raise ValueError(f"{path}: {reason}") from error


def check_exr() -> None:
    """ValueError where OpenCV is built without EXR."""
    if re.search(r"OpenEXR:\s+NO\b", cv2.getBuildInformation()):
        raise ValueError(NO_EXR)


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
    exr = path.suffix.lower() == ".exr"
    if exr:
        check_exr()
        os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # asked for at the first use
    elif np.prod(image_size(path)) > MAX_PIXELS:
        raise ValueError(f"has {image_size(path)} pixels, at most {MAX_PIXELS} are allowed")
    try:
        values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"does not decode: {error.err}") from error
    if values is None:
        raise ValueError("does not decode" + (f", or {NO_EXR}" if exr else ""))
    return values if values.ndim == 2 else values[..., 2::-1]
