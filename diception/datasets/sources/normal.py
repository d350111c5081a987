"""Images and maps of surface normals named by patterns, to samples; any convention of axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diception.annotations import NormalMap
from diception.datasets.images import IMAGE_SUFFIXES, read_file, read_image
from diception.datasets.sample import Sample
from diception.datasets.sources.arrays import read_vectors, unit_normals
from diception.datasets.sources.patterns import match_files, short
from diception.datasets.targets import TARGETS, TargetOptions

NORMAL_ENDINGS = ("png", "tif", "tiff", "npy")
OUR_AXES = "right,up,back"
DIRECTIONS = {
    "right": (1, 0, 0),
    "left": (-1, 0, 0),
    "up": (0, 1, 0),
    "down": (0, -1, 0),
    "back": (0, 0, 1),
    "forward": (0, 0, -1),
}
"""Where an axis may point, in our axes; "back" is towards the viewer."""
TILE, GAP, HEADER = 360, 10, 24


def parse_axes(axes: str) -> NDArray[np.float32]:
    """(3, 3) that turns stored vectors into ours, of where the stored x, y and z point: "right,down,forward"."""
    names = [name.strip() for name in axes.split(",")]
    if len(names) == 3 and all(name in DIRECTIONS for name in names):
        matrix = np.array([DIRECTIONS[name] for name in names], np.float32).T
        if np.abs(matrix).sum(axis=1).tolist() == [1, 1, 1]:
            return matrix
    raise ValueError(
        f"axes are {axes!r}; allowed is where the stored x, y and z point, one of left and right, one of up and down, "
        f"one of back and forward: {OUR_AXES} or right,down,forward"
    )


class NormalData:
    """Images with "normal"."""

    def __init__(self, images: str, targets: str, axes: str = OUR_AXES, valid: str | None = None) -> None:
        """`valid`: pattern of masks, nonzero where the normal means something."""
        self.axes = parse_axes(axes)
        patterns = [(images, IMAGE_SUFFIXES), (targets, NORMAL_ENDINGS)]
        matched = match_files(patterns + ([(valid, TARGETS["mask"].endings)] if valid else []))
        self.keys, self.files, self.alone = matched.keys, matched.files, matched.alone
        masks = f" valid {short(valid)}" if valid else ""
        self.made_by = f"normal {short(images)} {short(targets)} axes {axes}{masks}"

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, i: int) -> str:
        """Key of row i: what the stars stand for."""
        return self.keys[i]

    def __getitem__(self, i: int) -> Sample:
        """ValueError naming the file where a file does not decode or the sizes differ."""
        picture, target, *masks = map(Path, self.files[i])
        image, encoded = read_file(picture)
        sample = Sample(self.key(i), image, {}, encoded)
        vectors = read_vectors(target)
        _check_size(target, vectors.shape[1:], sample, picture)
        for file in masks:
            mask = TARGETS["mask"].load(file, sample.size, TargetOptions()).to_array()
            _check_size(file, mask.shape, sample, picture)
            vectors = np.where(mask, vectors, 0)
        normal = unit_normals(vectors, self.axes)
        if not normal.valid.any():
            raise ValueError(f"{target}: no pixel has a valid normal")
        sample.annotations["normal"] = normal
        return sample


def show(sample: Sample, path: Path) -> None:
    """Write a picture: the image, its normals as they would be stored, and a ball in the same colours."""
    painted = read_image(sample.annotations["normal"].to_bytes())
    tiles = [("image", sample.image), ("normals as stored", painted), ("a ball in the same colours", paint_ball(TILE))]
    pictures = [Image.fromarray(tile) for _, tile in tiles]
    pictures = [picture.resize((round(picture.width * TILE / picture.height), TILE)) for picture in pictures]
    width = sum(picture.width + GAP for picture in pictures) + GAP
    canvas = Image.new("RGB", (width, TILE + HEADER + GAP), "white")
    pen, left = ImageDraw.Draw(canvas), GAP
    for (title, _), picture in zip(tiles, pictures, strict=True):
        pen.text((left, 4), title, fill="black", font=ImageFont.load_default(13))
        canvas.paste(picture, (left, HEADER))
        left += picture.width + GAP
    canvas.save(path, "PNG")


def ball(size: int) -> NDArray[np.float32]:
    """(3, size, size) normals of a ball in our axes, 0 beside it."""
    x = (2 * np.arange(size) + 1) / size - 1
    x, y = np.meshgrid(x, -x)
    inside = x**2 + y**2 < 1
    z = np.sqrt(np.where(inside, 1 - x**2 - y**2, 0))
    return np.where(inside, np.stack([x, y, z]), 0).astype(np.float32)


def paint_ball(size: int) -> NDArray[np.uint8]:
    """A ball in the colours of its normals."""
    return read_image(NormalMap(ball(size)).to_bytes())


def _check_size(file: Path, size: tuple[int, ...], sample: Sample, picture: Path) -> None:
    if tuple(size) != sample.size:
        raise ValueError(f"{file}: size {tuple(size)}, its image {picture} has {sample.size}")
