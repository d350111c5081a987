"""Composites: foregrounds with alpha pasted on backgrounds, so that masks follow hair and fur."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from diception.annotations import InstanceMasks
from diception.datasets.images import IMAGE_SUFFIXES, open_image, read_image
from diception.datasets.sample import Sample
from diception.datasets.sources.patterns import find_files, match_files

TURN = 30.0
"""Degrees that a foreground is turned by, at most, to either side."""
SCALE = (0.4, 1.0)
"""Longer side of the object over that of the picture."""
ZOOM = 2.0
"""A background's window is at least its short side over this."""
FOREGROUND_ENDINGS = ("png", "tif", "tiff", "webp")
"""Of foregrounds that hold their alpha."""

Floats = NDArray[np.float32]


class MattingData:
    """Sample i is a function of (seed, i) and the files alone; one mask, where alpha is above a half."""

    def __init__(
        self, foregrounds: Path, alphas: Path | None, backgrounds: Path, count: int, size: int = 1024, seed: int = 0
    ) -> None:
        """`alphas`: folder of pictures with the names of the foregrounds; None: the foregrounds' own fourth channel."""
        if count < 1 or size < 8 or seed < 0:
            raise ValueError(f"count {count}, size {size} and seed {seed} must be at least 1, 8 and 0")
        for folder in (foregrounds, alphas, backgrounds):
            if folder is not None and not folder.is_dir():
                raise ValueError(f"{folder}: no such folder")
        self.alone: list[str] = []
        if alphas is not None:
            matched = match_files([(str(foregrounds), IMAGE_SUFFIXES), (str(alphas), IMAGE_SUFFIXES)])
            self.foregrounds, self.alone = matched.files, matched.alone
        else:
            self.foregrounds = [(file,) for _, file in sorted(find_files(str(foregrounds), FOREGROUND_ENDINGS).items())]
        self.backgrounds = [file for _, file in sorted(find_files(str(backgrounds), IMAGE_SUFFIXES).items())]
        self.count, self.size, self.seed = count, size, seed
        names = [Path(row[0]).name for row in self.foregrounds] + [Path(file).name for file in self.backgrounds]
        drawn = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
        # The files are named, since another list draws others; the count is not, since a longer set begins the same.
        self.made_by = f"matting {foregrounds.name} {backgrounds.name} files {drawn} size {size} seed {seed}"

    def __len__(self) -> int:
        return self.count

    def key(self, i: int) -> str:
        """Key of sample i."""
        return f"matting-{self.seed}-{i:08d}"

    def layers(self, i: int) -> tuple[Floats, Floats, Floats]:
        """Background (S, S, 3), foreground times alpha (S, S, 3), both 0 to 255, and alpha (S, S)."""
        if not 0 <= i < self.count:
            raise IndexError(f"sample {i} of {self.count}")
        # Counter-based: sample i has a stretch of numbers of its own.
        draw = np.random.Generator(np.random.Philox(key=self.seed, counter=i << 128))
        row = self.foregrounds[draw.integers(len(self.foregrounds))]
        ground = Path(self.backgrounds[draw.integers(len(self.backgrounds))])
        color, alpha = _cut_out(*read_foreground(*map(Path, row)))
        color, alpha = _place(color, alpha, self.size, draw)
        return _window(read_image_of(ground), self.size, draw), color, alpha

    def __getitem__(self, i: int) -> Sample:
        """ValueError naming the file where one does not decode or an alpha is empty."""
        ground, color, alpha = self.layers(i)
        mask = alpha > 0.5
        if not mask.any():
            raise ValueError("nothing of the foreground is opaque")
        image = np.clip(np.rint(composite(ground, color, alpha)), 0, 255).astype(np.uint8)
        return Sample(self.key(i), image, {"instances": InstanceMasks(mask[None], ("",))})


def composite(ground: Floats, color: Floats, alpha: Floats) -> Floats:
    """Foreground, already times alpha, over background."""
    return np.asarray(color + (1 - alpha[..., None]) * ground, np.float32)


def read_image_of(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8; ValueError with the file where it does not decode."""
    try:
        return read_image(path)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def read_foreground(path: Path, matte: Path | None = None) -> tuple[NDArray[np.uint8], Floats]:
    """Colours (H, W, 3) and alpha (H, W) from 0 to 1, of a second file or of the fourth channel."""
    if matte is not None:
        color, alpha = read_image_of(path), read_image_of(matte)[..., 0]
        if alpha.shape != color.shape[:2]:
            raise ValueError(f"{matte}: size {alpha.shape}, its foreground {path} has {color.shape[:2]}")
    else:
        picture = ImageOps.exif_transpose(open_image(path))
        if not picture.has_transparency_data:
            raise ValueError(f"{path}: has no alpha channel; name a folder of alphas")
        values = np.asarray(picture.convert("RGBA"))
        color, alpha = values[..., :3], values[..., 3]
    if not (alpha > 127).any():
        raise ValueError(f"{matte or path}: alpha is nowhere above a half")
    return np.asarray(color, np.uint8), np.asarray(alpha / 255, np.float32)


def _cut_out(color: NDArray[np.uint8], alpha: Floats) -> tuple[Floats, Floats]:
    """The window around what is not transparent, colours times alpha, so that resampling mixes no background in."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return color[part].astype(np.float32) * alpha[part][..., None], alpha[part]


def _place(color: Floats, alpha: Floats, size: int, draw: np.random.Generator) -> tuple[Floats, Floats]:
    """Flip, resize, turn and move; the middle of the object stays in the middle half of the picture."""
    layer = np.concatenate([color, alpha[..., None]], axis=-1)
    if draw.random() < 0.5:
        layer = layer[:, ::-1]
    scale = size * draw.uniform(*SCALE) / max(alpha.shape)
    width, height = (max(1, round(side * scale)) for side in (alpha.shape[1], alpha.shape[0]))
    layer = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), draw.uniform(-TURN, TURN), 1.0)
    middle = size * draw.uniform(0.25, 0.75, 2) - 0.5
    turn[:, 2] += middle - np.array([width - 1, height - 1]) / 2
    placed = cv2.warpAffine(layer, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(placed[..., :3], np.float32), np.asarray(np.clip(placed[..., 3], 0, 1), np.float32)


def _window(image: NDArray[np.uint8], size: int, draw: np.random.Generator) -> Floats:
    """A square window of an image at a size."""
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) / draw.uniform(1, ZOOM)))
    top, left = draw.integers(height - side + 1), draw.integers(width - side + 1)
    part = image[top : top + side, left : left + side]
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    resized = cv2.resize(part, (size, size), interpolation=way)
    return (resized if draw.random() < 0.5 else resized[:, ::-1]).astype(np.float32)
