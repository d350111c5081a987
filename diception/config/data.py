"""Where samples come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from diception.config.ranges import FROM_ZERO, check_ranges


@dataclass
class SourceConfig:
    """One source of samples in the mixture."""

    name: str = ""
    """A short name for logs."""
    shards: str = ""
    """Tars, as a path with globs or braces: `shards/synthetic/*.tar`."""
    weight: float = 1.0
    """Share of the samples; the weights of all sources sum to 1."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Task name to its share of this source's samples; the shares sum to 1."""


@dataclass
class AugmentConfig:
    """Changes made to a training sample, to image and annotation together."""

    hflip: float = 0.5
    """Probability of a horizontal flip."""
    crop: float = 1.0
    """Smallest share of the image's area that a random crop keeps; 1 means no crop."""
    photometric: float = 0.0
    """Strength in [0, 1) of colour changes, on the image only."""
    turns: bool = False
    """Whether samples get 0 to 3 quarter turns: for what has no up and down, as under a microscope or from above."""
    windows: float = 0.0
    """The model sees windows of its size out of images at so many times their own scale; 0: whole images."""


@dataclass
class DataConfig:
    """Where samples come from."""

    sources: list[SourceConfig] = field(default_factory=list)
    """The training mixture."""
    validation: list[SourceConfig] = field(default_factory=list)
    """Held-out sources; weights are not used, every task is evaluated on `validation_count` samples."""
    validation_count: int = 64
    """Samples per task in a validation during training."""
    size: int = 128
    """Side in pixels to which images are squashed."""
    workers: int = 1
    """Loader processes per rank; 0 loads in the training process."""
    cache: str = ""
    """Folder on local disk for copies of remote shards; only they need it."""
    cache_gb: float = 0.0
    """Size that the copies together may have, in GB; beyond it the oldest are dropped. 0: no limit. The disk needs room
    for more: a loader process keeps up to 64 shards of a source open, which take their space until it closes them."""
    max_corrupt: float = 0.01
    """Share of a source's samples that may fail to decode, and are replaced, before the run stops."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the training samples."""
    latents: int = 0
    """So many first examples of the mixture are encoded once, by all ranks, into `<run>/latents`, before the first
    step; the steps then go over these again and again, without reading, painting or encoding. 0: every step encodes
    new examples."""
    latents_folder: str = ""
    """Where these examples are, for several runs on the same; empty: `<run>/latents`."""

    def __post_init__(self) -> None:
        if self.size < 0 or self.size % 16:
            raise ValueError(f"size is {self.size}; it must be a multiple of 16")
        check_ranges(self, dict.fromkeys(("latents", "workers", "validation_count", "cache_gb"), FROM_ZERO), "data.")
        if self.latents_folder and not self.latents:
            raise ValueError("data.latents_folder is for encoded examples: data.latents must say how many")
