"""Images and depth maps named by patterns, to samples; depth in metres along the optical axis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diception.annotations import DepthMap
from diception.datasets.images import IMAGE_SUFFIXES, read_file
from diception.datasets.sample import Sample
from diception.datasets.sources.arrays import check_exr, read_array
from diception.datasets.sources.patterns import match_files, short

DEPTH_ENDINGS = ("png", "tif", "tiff", "npy", "pfm", "exr")
STEP = 0.001
"""Metres of one step of a 16-bit file where nobody says otherwise."""


@dataclass(frozen=True)
class DepthOptions:
    """What the numbers in depth files mean and which are kept."""

    scale: float | None = None
    """Metres of 1; None: whole numbers are millimetres, floats metres."""
    nearest: float = 0.0
    """Metres; nearer is invalid."""
    farthest: float = float("inf")
    """Metres; farther is invalid."""
    resize: bool = False
    """Depth of another size than its image is stretched to it, to the nearest pixel; otherwise refused."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise ValueError(f"depth scale is {self.scale}, it must be above 0")
        if not 0 <= self.nearest < self.farthest:
            raise ValueError(f"depth from {self.nearest} to {self.farthest} m is empty; 0 <= least < most is allowed")


def read_depth(path: Path, options: DepthOptions) -> NDArray[np.float32]:
    """(H, W) metres, 0 where invalid; ValueError with the file where the numbers are no depth."""
    values = read_array(path)
    stored = values.squeeze()
    if stored.ndim != 2 or stored.dtype.kind not in "iuf" or stored.dtype.itemsize < 2:
        raise ValueError(
            f"{path}: depth must be one channel of floats or of 16 bits, got {values.shape} {values.dtype}"
        )
    whole = stored.dtype.kind != "f"
    if whole and options.scale is None and path.suffix.lower() == ".npy":
        raise ValueError(f"{path}: holds whole numbers; say how many metres a step has (--depth-scale)")
    scale = options.scale or (STEP if whole else 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        metres = (stored * np.float64(scale)).astype(np.float32)
        kept = (metres > 0) & (metres >= options.nearest) & (metres <= options.farthest)
        # As shards store it: too far or too near for that is invalid.
        kept &= np.isfinite(metres) & np.isfinite(half := metres.astype(np.float16)) & (half > 0)
    if not kept.any():
        raise ValueError(f"{path}: no pixel has a valid depth")
    return np.where(kept, metres, np.float32(0))


class DepthData:
    """Images with "depth"."""

    def __init__(self, images: str, targets: str, options: DepthOptions | None = None) -> None:
        """`images` and `targets` are patterns or folders."""
        self.options = options or DepthOptions()
        matched = match_files([(images, IMAGE_SUFFIXES), (targets, DEPTH_ENDINGS)])
        self.keys, self.files, self.alone = matched.keys, matched.files, matched.alone
        if exr := next((depth for _, depth in self.files if depth.lower().endswith(".exr")), None):
            try:
                check_exr()
            except ValueError as error:
                raise ValueError(f"{exr}: {error}") from error
        o = self.options
        how = f"scale {o.scale} from {o.nearest:g} to {o.farthest:g}{' resized' if o.resize else ''}"
        self.made_by = f"depth {short(images)} {short(targets)} {how}"

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, i: int) -> str:
        """Key of pair i: what the stars stand for."""
        return self.keys[i]

    def __getitem__(self, i: int) -> Sample:
        """ValueError naming the file where a file does not decode or the sizes differ."""
        picture, target = map(Path, self.files[i])
        image, encoded = read_file(picture)
        sample = Sample(self.key(i), image, {}, encoded)
        depth = DepthMap(read_depth(target, self.options))
        if depth.size != sample.size:
            if not self.options.resize:
                raise ValueError(f"{target}: size {depth.size}, its image {picture} has {sample.size} (--resize)")
            depth = depth.resize(*sample.size)
            if not depth.valid.any():
                raise ValueError(f"{target}: no pixel has a valid depth at the size of its image")
        sample.annotations["depth"] = depth
        return sample
