"""A training run: model, tasks, flow, optimizer, sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from diception.config.data import DataConfig
from diception.config.ranges import FROM_ONE, FROM_ZERO, SHARE, check_ranges

STARTS = ("noise", "zero")
PRECISIONS = ("32-true", "bf16-mixed")
MAX_ZOOM = 8.0


@dataclass
class ModelConfig:
    """The model that training starts from."""

    base: str = "tiny"
    """A model directory, `tiny`, a folder of Stable Diffusion 3 in diffusers' layout, or `small`: a small transformer
    from random weights (needs `autoencoder`)."""
    autoencoder: str = ""
    """For `small`: folder of the autoencoder."""
    width: int = 128
    """For `small`: width of the transformer."""
    layers: int = 4
    """For `small`: number of blocks."""
    heads: int = 4
    """For `small`: attention heads."""
    patch: int = 2
    """For `small`: latent cells along a side of a token; 1 makes four times the tokens."""
    text_tokens: int = 16
    """For `small`: length of the prompt."""
    point_encoding: str = "grid"
    """For `small`: `grid` or `fourier`."""
    gradient_checkpointing: int = 0
    """Every so-manieth block is computed again in the backward pass: 1 is every block, which takes least memory and a
    third more compute; 2 every second one; 0 none."""
    compile: bool = False
    """`torch.compile` of the blocks, which share their code: minutes at the start, faster steps on a GPU."""
    autoencoder_precision: str = "fp32"
    """In which the frozen autoencoder encodes image and target: `fp32` or `bf16`."""
    base_precision: str = "fp32"
    """Of the frozen weights under an adapter: `bf16` halves their memory and wants `precision: bf16-mixed`; `nf4` keeps
    the blocks in 4 bits, by bitsandbytes (QLoRA)."""


@dataclass
class TaskConfig:
    """A task that is not among the registered ones, or one with other fields."""

    type: str = ""
    """Type of the task, as `diception.tasks.TASK_TYPES` lists them."""
    name: str = ""
    """Name of the task."""
    token: str = ""
    """Its token; empty: `[[image2<name>]]`."""
    encoding: str = ""
    """How its target is painted; empty: the type's default."""
    negatives: float = 0.0
    """For point and category segmentation: share of training samples whose target is empty."""
    background: float = 0.0
    """For poses: what pixels far from all people count in the loss; 0: as much as those near them."""
    vocabulary: list[str] = field(default_factory=list)
    """For category segmentation: its categories. Their prompts are encoded before the first step (others' when they are
    first met, by every device), and absent ones are drawn from them. Empty: COCO's 80."""


@dataclass
class FlowConfig:
    """The density of sigma in training."""

    density: str = "logit_normal"
    """`logit_normal`, `uniform`, `mode` or `cosmap`."""
    mean: float = 0.0
    """Mean of the normal under the sigmoid."""
    std: float = 1.0
    """Its standard deviation."""
    mode_scale: float = 1.29
    """Of `mode`: above 0 the middle is favoured, below 0 the ends."""
    weighting: str = "none"
    """What the loss counts at a sigma: `none` for 1, `cosmap`, or `clean` for sigma squared."""
    share_at_one: float = 0.0
    """Share of samples with sigma 1 exactly; a small model from random weights needs about a third."""
    prompt_dropout: float = 0.1
    """Share of samples without prompt and points, so that guidance has an unconditional branch."""
    start: str = "noise"
    """What sigma 1 is made of: `noise`, or `zero` with `share_at_one: 1`: the model learns to answer in one step, the
    same for every seed."""

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"flow.start is {self.start!r}; allowed: {', '.join(STARTS)}")
        check_ranges(self, {"share_at_one": SHARE, "prompt_dropout": SHARE}, "flow.")
        if self.start == "zero" and self.share_at_one != 1:
            raise ValueError(f"flow.start=zero needs flow.share_at_one=1, not {self.share_at_one}: there is one step")


@dataclass
class OptimConfig:
    """AdamW and its schedule."""

    name: str = "adamw"
    """`adamw`, or `adamw8bit`: moments in 8 bits, by bitsandbytes."""
    lr: float = 2e-5
    """Peak learning rate."""
    warmup: int = 100
    """Steps of linear warm-up."""
    schedule: str = "constant"
    """After the warm-up: `constant`, or `cosine` down to a hundredth at the last step."""
    hold: float = 0.0
    """Of `cosine`: the share of the steps after the warm-up that stay at the peak, in [0, 1]."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates."""
    clip: float = 1.0
    """Gradient norm is clipped to this; 0 means never."""
    spike: float = 20.0
    """A step whose gradient norm exceeds the median of the last hundred so many times is skipped, as is one that is not
    finite; 0 skips only the latter."""
    max_skipped: int = 20
    """So many skipped steps among the last thousand end the run."""
    ema: float = 0.999
    """Decay of the moving average of the trained weights, ramped up from 0; 0 means no average."""

    def __post_init__(self) -> None:
        from_zero = dict.fromkeys(("lr", "warmup", "weight_decay", "clip", "spike", "max_skipped"), FROM_ZERO)
        check_ranges(self, from_zero | {"hold": SHARE, "ema": SHARE}, "optim.")
        if self.hold and self.schedule == "constant":
            raise ValueError(f"optim.hold is {self.hold}; it goes with optim.schedule=cosine")


@dataclass(unsafe_hash=True)
class SamplingConfig:
    """How predictions are sampled; the same object serves validation, evaluation and inference."""

    steps: int = 28
    """Euler steps."""
    guidance_scale: float = 2.0
    """Above 1 the model also runs without prompt and the difference is scaled by this."""
    window: int = 0
    """Side in pixels, a multiple of 16, of overlapping windows that are predicted in place of a larger picture; 0: the
    whole picture at once."""
    zoom: float = 1.0
    """With windows, pictures are first enlarged so many times, for what is finer than the model's patches."""
    start: str = "noise"
    """From what the sampler starts: `noise`, or `zero`, for an adapter that was trained so to answer in one step."""
    turns: bool = False
    """Whether a picture is painted turned and mirrored in all eight ways, and the mean counts: for tasks whose painting
    turns with the picture, of what has no up and down."""
    size: int = 0
    """Side in pixels, a multiple of 16, to which whole pictures are squashed, as an adapter brings it; 0: the model's
    resolution. While training, `data.size` says it."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be a number from 0 on")
        for name in ("window", "size"):
            if (value := getattr(self, name)) < 0 or value % 16:
                raise ValueError(f"{name} is {value}; it must be 0 or a positive multiple of 16")
        if not 0 < self.zoom <= MAX_ZOOM:
            raise ValueError(f"zoom is {self.zoom}; it must be above 0 and at most {MAX_ZOOM}")
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}; allowed: {', '.join(STARTS)}")
        if self.start == "zero" and self.steps != 1:
            raise ValueError(f"start=zero is an answer in 1 step, not in {self.steps}")


@dataclass
class AdapterConfig:
    """The LoRA adapter of a few-shot run."""

    rank: int = 0
    """Rank; 0 means the largest within `max_share`."""
    max_share: float = 0.01
    """Largest share of the transformer's parameters."""
    streams: str = "both"
    """Maps that adapt: queries, keys and values of the `image` stream or of `both` (image and context), or `all`: also
    the attention's output and the image stream's feed-forward."""


@dataclass
class TrainConfig:
    """One training run."""

    run: str = "runs/train"
    """Folder of the run: checkpoints, logs, panels, and the trained model. The same folder resumes."""
    seed: int = 0
    """Fixes the stream of samples, all noise and the initial weights."""
    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Samples per optimizer step, over all devices."""
    accumulate: int = 1
    """The batch is split in this many parts, one after the other on every device."""
    precision: str = "32-true"
    """`32-true` or `bf16-mixed`."""
    strategy: str = "auto"
    """`ddp`: every device holds the whole model; `fsdp`: each a piece of it; `auto`: `ddp` on several devices."""
    devices: int = 1
    """Processes on this node."""
    nodes: int = 1
    """Nodes."""
    log_every: int = 20
    """Steps between two lines of the logs."""
    loggers: list[str] = field(default_factory=lambda: ["csv", "tensorboard"])
    """Where they go: `csv`, `tensorboard`, `wandb`."""
    validate_every: int = 500
    """Steps between two validations, the first before any training; 0 means only at the end."""
    checkpoint_every: int = 250
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """The newest ones that stay."""
    max_minutes: float = 0.0
    """Stop cleanly after so many minutes, whatever `steps` says; 0 means never."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model to start from."""
    tasks: list[TaskConfig] = field(default_factory=list)
    """Tasks besides the registered ones, or registered ones with another encoding."""
    data: DataConfig = field(default_factory=DataConfig)
    """Samples."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Sigma density."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=4, guidance_scale=1.0))
    """Sampling in validations."""
    adapter: AdapterConfig | None = None
    """Set: train a LoRA adapter on a frozen model, not the model."""

    def __post_init__(self) -> None:
        counts = ("batch_size", "accumulate", "devices", "nodes", "log_every", "checkpoint_every", "keep_checkpoints")
        check_ranges(self, dict.fromkeys(counts, FROM_ONE))
        check_ranges(self, dict.fromkeys(("steps", "validate_every", "max_minutes"), FROM_ZERO))
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; allowed: {', '.join(PRECISIONS)}")
        if self.flow.start == "zero" and self.sampling.start != "zero":
            raise ValueError(
                "flow.start=zero needs sampling.start=zero and sampling.steps=1: what is trained is measured"
            )


@dataclass
class AutoencoderConfig:
    """One run that fits a small autoencoder."""

    out: str = "runs/autoencoder"
    """Folder that the autoencoder is written to."""
    seed: int = 0
    """Fixes samples and weights."""
    steps: int = 2000
    """Optimizer steps."""
    precision: str = "32-true"
    """`32-true` or `bf16-mixed`."""
    batch_size: int = 32
    """Pictures per step: half of what is not leaves are images, half targets of the tasks."""
    leaves: float = 0.0
    """Share of pictures that stand in for photographs: random leaves under noise, which no task paints."""
    lr: float = 2e-3
    """Peak learning rate."""
    width: int = 96
    """Channels of the residual networks."""
    encoder_blocks: int = 1
    """Residual blocks in the encoder, which every training sample passes twice."""
    blocks: int = 3
    """Residual blocks in the decoder."""
    noise: float = 0.02
    """Standard deviation of noise on the latents in training, so that decoding forgives small errors."""
    tasks: list[TaskConfig] = field(default_factory=list)
    """As in a training run: tasks that paint in another way than by default."""
    data: DataConfig = field(default_factory=DataConfig)
    """Samples."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; allowed: {', '.join(PRECISIONS)}")
        if not 0 <= self.leaves < 1:
            raise ValueError(f"leaves is {self.leaves}; it must be in [0, 1)")
        if self.pairs < 1:
            raise ValueError(f"batch_size {self.batch_size} with leaves {self.leaves} has no room for image and target")

    @property
    def leaf_count(self) -> int:
        """Leaves in a batch."""
        return round(self.leaves * self.batch_size)

    @property
    def pairs(self) -> int:
        """Images in a batch, and as many targets."""
        return (self.batch_size - self.leaf_count) // 2
