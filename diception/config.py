"""Every option of a run, as dataclasses, and how they are read from a yaml file and the command line."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

EXTENDS = "extends"
"""Key of a yaml file that names another, whose keys hold where the file says nothing; its lists replace the other's."""
CONFIG_FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")


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


@dataclass
class ModelConfig:
    """The model that training starts from."""

    base: str = "tiny"
    """A model directory, `tiny`, or `small`: a small transformer from random weights (needs `autoencoder`)."""
    autoencoder: str = ""
    """For `small`: folder of the autoencoder."""
    width: int = 128
    """For `small`: width of the transformer."""
    layers: int = 4
    """For `small`: number of blocks."""
    heads: int = 4
    """For `small`: attention heads."""
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
    """Of the frozen weights under an adapter: `bf16` halves their memory and wants `precision: bf16-mixed`."""


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
    vocabulary: list[str] = field(default_factory=list)
    """For category segmentation with negatives: what absent categories are drawn from; empty: COCO's 80."""


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


@dataclass
class SamplingConfig:
    """How predictions are sampled; the same object serves validation, evaluation and inference."""

    steps: int = 28
    """Euler steps."""
    guidance_scale: float = 2.0
    """Above 1 the model also runs without prompt and the difference is scaled by this."""


@dataclass
class AdapterConfig:
    """The LoRA adapter of a few-shot run."""

    rank: int = 0
    """Rank; 0 means the largest within `max_share`."""
    max_share: float = 0.01
    """Largest share of the transformer's parameters."""
    streams: str = "both"
    """Attention projections that adapt: `image` or `both` (image and context)."""


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


@dataclass
class AutoencoderConfig:
    """One run that fits a small autoencoder."""

    out: str = "runs/autoencoder"
    """Folder that the autoencoder is written to."""
    seed: int = 0
    """Fixes samples and weights."""
    steps: int = 2000
    """Optimizer steps."""
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
    """What the targets are: mask, labels, depth, normal, pose or image."""
    name: str = ""
    """Name of the new task; its token is `[[image2<name>]]`."""
    out: str = ""
    """Folder for adapter, report and panel; empty: `runs/<name>`."""
    held_out: int = 0
    """Images kept for measuring, never trained on; 0 means a third."""
    steps: int = 600
    """Optimizer steps."""
    batch_size: int = 8
    """Images per step."""
    lr: float = 4e-3
    """Peak learning rate; SD3 wants about 1e-4, the tiny model 4e-3."""
    seed: int = 0
    """Fixes split, stream, noise and the adapter's first weights."""
    size: int = 0
    """Side in pixels; 0 means the model's resolution."""
    precision: str = "32-true"
    """`32-true` or `bf16-mixed`."""
    workers: int = 1
    """Loader processes."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Rank and share."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """Sigma density."""
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(crop=0.4, photometric=0.2))
    """Augmentation of the few images."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=4, guidance_scale=1.0))
    """Sampling when measuring."""


Config = TypeVar("Config", TrainConfig, AutoencoderConfig, FewShotConfig)


def load_config(name: str | Path, overrides: list[str] | None = None, schema: type[Config] = TrainConfig) -> Config:
    """Reads a config by path or by the name of a shipped one, and those it extends, then applies overrides.

    Args:
        name: path of a yaml file, or a shipped config's name such as `tiny/multitask`.
        overrides: `key=value`, with dots for nested keys: `optim.lr=1e-4`.
        schema: the dataclass that says which keys and types are allowed.

    Raises:
        ValueError: no such config, one that extends itself, an unknown key (names the nearest), a value of the wrong
            type.
    """
    path = find_config(name)
    base = OmegaConf.structured(schema)
    try:
        given = [*_chain(path, ()), OmegaConf.from_dotlist(overrides or [])]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: not readable as yaml: {' '.join(str(error).split())}") from error
    for config in given:
        if not isinstance(config, DictConfig):
            raise ValueError(f"{path}: holds a {type(config).__name__}, not keys and values")
        _check_keys(config, base, str(path))
    try:
        return OmegaConf.to_object(OmegaConf.merge(base, *given))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]} (key {error.full_key})") from error


def _chain(path: Path, above: tuple[Path, ...]) -> list[Any]:
    """A config behind those that it extends, the first of which stands alone."""
    if path in above:
        raise ValueError(f"{path} extends itself, by way of {', '.join(map(str, above))}")
    config = OmegaConf.load(path)
    parent = config.pop(EXTENDS, None) if isinstance(config, DictConfig) else None
    return [*(_chain(find_config(parent), (*above, path)) if parent else []), config]


def save_config(config: Any, path: str | Path) -> None:
    """Writes a config dataclass as yaml, readable by `load_config`."""
    OmegaConf.save(OmegaConf.structured(config), path)


def find_config(name: str | Path) -> Path:
    """Path of a config given by path or by the name of a shipped one.

    Raises:
        ValueError: neither exists; lists the shipped ones.
    """
    candidates = [Path(name), *(folder / f"{name}.yaml" for folder in CONFIG_FOLDERS)]
    for path in candidates:
        if path.is_file():
            return path
    raise ValueError(f"no config {str(name)!r}: neither a file nor one of the shipped {', '.join(shipped_configs())}")


def shipped_configs() -> list[str]:
    """Names of the configs that travel with the package."""
    for folder in CONFIG_FOLDERS:
        if folder.is_dir():
            return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    return []


def _check_keys(given: Any, known: Any, where: str, prefix: str = "") -> None:
    """Refuses keys that the schema lacks, naming the nearest one that it has."""
    if isinstance(given, ListConfig) and isinstance(known, ListConfig):
        schema = OmegaConf.structured(_element_type(known)) if _element_type(known) else None
        for index, item in enumerate(given):
            _check_keys(item, schema, where, f"{prefix}{index}.")
        return
    if not isinstance(given, DictConfig) or not isinstance(known, DictConfig):
        return
    if not dataclasses.is_dataclass(OmegaConf.get_type(known)):
        return
    names = [f.name for f in dataclasses.fields(OmegaConf.get_type(known))]  # type: ignore[arg-type]
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise ValueError(f"{where}: unknown key {prefix}{key}; {hint}")
        _check_keys(given._get_node(key), known._get_node(key), where, f"{prefix}{key}.")


def _element_type(config: ListConfig) -> type | None:
    element = config._metadata.element_type
    return element if isinstance(element, type) and dataclasses.is_dataclass(element) else None
