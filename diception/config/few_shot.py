"""One adaptation."""

from __future__ import annotations

from dataclasses import dataclass, field

from diception.config.data import AugmentConfig
from diception.config.training import MAX_ZOOM, AdapterConfig, FlowConfig, SamplingConfig

COUNTS = ("held_out", "cached", "validate_every", "patience", "forgetting", "gradient_checkpointing", "workers", "size")
"""Options that may be 0 but not less."""


@dataclass
class FewShotConfig:
    """One adaptation to a new task from a folder of images and a folder of targets."""

    model: str = "tiny"
    """The model directory that is adapted; it stays as it is."""
    images: str = ""
    """Folder of images."""
    targets: str = ""
    """Folder of targets with the same names (stems)."""
    kind: str = "mask"
    """What the targets are: mask, labels, instances, depth, normal, pose or image."""
    target_suffix: str = ""
    """What a target's name has more than its image's: `_mask` for `a.jpg` and `a_mask.png`."""
    invert: bool = False
    """Whether the zeros of a mask are what it marks."""
    depth_scale: float = 0.001
    """Metres of one step of a 16-bit depth picture."""
    names: str = ""
    """File with the names of a label map's values, one a line, that of the background first."""
    name: str = ""
    """Name of the new task; its token is `[[image2<name>]]`."""
    out: str = ""
    """Folder for adapter, report and panel; empty: `runs/<name>`."""
    held_out: int = 0
    """Images kept for measuring, never trained on; 0 means a third."""
    val_images: str = ""
    """Folder of images to measure on, in place of a share of `images`."""
    val_targets: str = ""
    """Folder of their targets."""
    steps: int = 600
    """Optimizer steps."""
    batch_size: int = 8
    """Images per step."""
    accumulate: int = 1
    """The batch is split in this many parts, one after the other."""
    cached: int = 0
    """So many changed versions of every image and target are encoded once, before the first step, which makes steps
    faster; 0: a new one is made and encoded whenever an image has its turn."""
    one_step: bool = False
    """Train from zeros in place of noise, at sigma 1 alone, and answer in one step, the same for every seed."""
    validate_every: int = 0
    """Steps between two measurements while training, for the report's curve; 0: none, with `patience` a twentieth."""
    patience: int = 0
    """So many measurements in a row without a better one end the training, and the best weights stay; they are taken on
    a fifth of the images to train on, which then is not trained on. 0: all steps."""
    learning_curve: list[int] = field(default_factory=list)
    """Numbers of images from which the task is learned anew, each in as many steps, to see what more images bring."""
    forgetting: int = 0
    """Samples of each of the model's own tasks that are measured before and after; 0: none."""
    forgetting_shards: str = ""
    """Shards of these samples; empty: rendered scenes."""
    lr: float = 4e-3
    """Peak learning rate; SD3 wants about 1e-4, the tiny model 4e-3."""
    seed: int = 0
    """Fixes split, stream, noise and the adapter's first weights."""
    size: int = 0
    """Side in pixels; 0 means the model's resolution."""
    tile: bool = False
    """Whether the task is learned in windows of images at their own scale and predicted in overlapping ones: for thin
    structures and large images, and kinds whose painting at a place depends on its surroundings alone."""
    zoom: float = 1.0
    """With `tile`: images and targets are first enlarged so many times, for what is finer than the model's patches, or
    made smaller, for what needs wider surroundings."""
    turns: bool = False
    """For what has no up and down, as under a microscope or from above: learns from quarter turns, and paints the mean
    of a picture's eight turned and mirrored views, which takes eight times as long as one."""
    precision: str = "32-true"
    """`32-true` or `bf16-mixed`."""
    base_precision: str = "fp32"
    """Of the frozen weights under the adapter: `fp32`, `bf16` or `nf4`."""
    autoencoder_precision: str = "fp32"
    """In which the autoencoder encodes: `fp32` or `bf16`."""
    optimizer: str = "adamw"
    """`adamw` or `adamw8bit`."""
    gradient_checkpointing: int = 0
    """Every so-manieth block is computed again in the backward pass; 0: none."""
    compile: bool = False
    """`torch.compile` of the blocks."""
    workers: int = 1
    """Loader processes."""
    adapter: AdapterConfig | None = field(default_factory=AdapterConfig)
    """Rank and share; null: no adapter, all of the transformer is trained and a whole model written."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Sigma density."""
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(crop=0.4, photometric=0.2))
    """Augmentation of the few images."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=4, guidance_scale=1.0))
    """Sampling when measuring."""

    def __post_init__(self) -> None:
        """ValueError where a number is out of its range."""
        least = {"steps": 1, "batch_size": 1, "accumulate": 1} | dict.fromkeys(COUNTS, 0)
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {lowest} or more")
        if not 0 < self.zoom <= MAX_ZOOM:
            raise ValueError(f"zoom is {self.zoom}; it must be above 0 and at most {MAX_ZOOM}")
