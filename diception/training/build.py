"""What a run is made of, from its config: the model, the tasks; and whether a folder holds the same run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from diception.config import AutoencoderConfig, TrainConfig
from diception.model.autoencoder import Autoencoder
from diception.model.checkpoint import from_stable_diffusion, is_stable_diffusion, load_model
from diception.model.diception import Diception, small_model
from diception.model.lora import adapter_weights, add_lora, base_hash
from diception.model.memory import quantize_blocks
from diception.tasks import TASK_TYPES, Task, known_tasks, task_from_dict

PRECISIONS = {"autoencoder_precision": ("fp32", "bf16"), "base_precision": ("fp32", "bf16", "nf4")}
MAY_CHANGE = (
    *("run", "out", "steps", "devices", "nodes", "log_every", "validate_every", "checkpoint_every"),
    *("keep_checkpoints", "max_minutes", "workers", "data.workers", "data.validation", "data.validation_count"),
    *("data.cache", "data.cache_gb", "data.max_corrupt", "optim.max_skipped", "strategy", "accumulate", "loggers"),
    *("data.latents_folder", "model.gradient_checkpointing", "model.compile", "gradient_checkpointing", "compile"),
)
"""Keys that a resumed run may give anew; with any other it would be another run. More steps stretch a
cosine, and how long it holds."""


def check_same_run(config: Any, path: Path, fixed: Sequence[str] = ()) -> None:
    """Refuses to continue a folder that was begun with another config; `fixed` keys may not change here, either.

    Raises:
        ValueError: names the keys that differ.
    """
    if not path.exists():
        return
    # Through yaml and back, where a tuple becomes a list.
    written = OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(config)))
    old, new = (_flat(OmegaConf.to_container(c)) for c in (OmegaConf.load(path), written))
    default = _flat(OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(type(config))))))
    # A key that the folder's config does not have was added since then; until then all was as its default is.
    added = {k: default[k] for k in new if k not in old and k in default}
    before = old | added
    differ = sorted(k for k in before if before[k] != new.get(k) and (k in fixed or not _may_change(k)))
    if differ:
        raise ValueError(
            f"{path.parent} holds a run with other {', '.join(differ)} ({path.name}); choose another folder"
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings to one with dotted keys; a list is one value."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {k: v for key, value in values.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE)


def build_model(config: TrainConfig) -> Diception:
    """The model that the config starts from; only what is to be trained requires a gradient.

    Raises:
        ValueError: no such model, an unknown precision, or a frozen base in bf16 where there is none.
    """
    check_precision(config)
    model = base_model(config)
    model.autoencoder.requires_grad_(False)
    model.autoencoder.encodes_in_bf16 = config.model.autoencoder_precision == "bf16"
    if config.adapter is not None:
        adapter = config.adapter
        generator = torch.Generator().manual_seed(config.seed)
        add_lora(
            model, rank=adapter.rank or None, max_share=adapter.max_share, targets=adapter.streams, generator=generator
        )
        if is_stable_diffusion(config.model.base):  # whose points are fresh
            model.points.requires_grad_(True)
    if config.model.base_precision == "nf4":
        model.quantized_base = base_hash(model)
        if config.precision == "bf16-mixed":
            for parameter in model.transformer.parameters():
                parameter.data = parameter.data.bfloat16()  # in which the maps of few bits then compute
        quantize_blocks(model, "nf4", "cuda" if torch.cuda.is_available() else "cpu")
        for weight in adapter_weights(model).values():
            weight.data = weight.data.float()
    if config.model.base_precision == "bf16":
        for parameter in [p for p in model.transformer.parameters() if not p.requires_grad]:
            parameter.data = parameter.data.bfloat16()
    side = config.data.size or model.settings.resolution
    if side > model.largest:
        raise ValueError(f"size is {side}; the model has positions for at most {model.largest} pixels a side")
    if config.model.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
        model.transformer.checkpoint_every = config.model.gradient_checkpointing
    return model


def check_precision(config: TrainConfig) -> None:
    """ValueError where a precision is unknown or does not go with the rest of the config."""
    for key, allowed in PRECISIONS.items():
        if getattr(config.model, key) not in allowed:
            raise ValueError(f"model.{key} is {getattr(config.model, key)!r}; allowed: {', '.join(allowed)}")
    if config.model.base_precision == "bf16" and (config.adapter is None or config.precision != "bf16-mixed"):
        raise ValueError("model.base_precision bf16 is for a frozen base: it needs an adapter and precision=bf16-mixed")
    if config.model.base_precision == "nf4" and config.adapter is None:
        raise ValueError("model.base_precision nf4 is for a frozen base: it needs an adapter")


def base_model(config: TrainConfig) -> Diception:
    """What training starts from: a small model from random weights, Stable Diffusion 3, or a model directory."""
    if config.model.base == "small":
        if not config.model.autoencoder:
            raise ValueError("model.base=small needs model.autoencoder, the folder of an autoencoder")
        model = small_model(
            Autoencoder.from_pretrained(config.model.autoencoder),
            width=config.model.width,
            layers=config.model.layers,
            heads=config.model.heads,
            patch=config.model.patch,
            resolution=config.data.size,
            text_tokens=config.model.text_tokens,
            point_encoding=config.model.point_encoding,
            generator=torch.Generator().manual_seed(config.seed),
        )
        own = {"steps": config.sampling.steps, "guidance_scale": config.sampling.guidance_scale}
        facts = {"licence": "bsd-2-clause", "base_model": "none: random weights"}
        model.settings = dataclasses.replace(model.settings, **facts, **own)
    elif is_stable_diffusion(config.model.base):
        model = from_stable_diffusion(config.model.base, torch.Generator().manual_seed(config.seed))
        model.settings.resolution = config.data.size or model.settings.resolution
    else:
        model = load_model(config.model.base)
        if config.adapter is None and config.data.size:  # 0: its own; under an adapter it stays as it is
            model.settings.resolution = config.data.size
    return model


def build_tasks(config: TrainConfig, model: Diception) -> dict[str, Task]:
    """Registered tasks, then those the model was trained with, then those of the config; the later wins."""
    return config_tasks(config, model.settings.tasks)


def config_tasks(config: TrainConfig | AutoencoderConfig, trained: Sequence[dict[str, Any]]) -> dict[str, Task]:
    """`build_tasks` from what a model says of the tasks it was trained with."""
    tasks = {task.name: task for task in known_tasks()}
    tasks |= {entry["name"]: task_from_dict(entry) for entry in trained}
    for entry in config.tasks:
        fields = {k: v for k, v in dataclasses.asdict(entry).items() if v}
        fields.setdefault("token", f"[[image2{entry.name}]]")
        if entry.name in tasks:
            fields = tasks[entry.name].as_dict() | {k: v for k, v in dataclasses.asdict(entry).items() if v}
        tasks[entry.name] = task_from_dict(fields)
    named = [name for source in [*config.data.sources, *config.data.validation] for name in source.tasks]
    for name in named:
        if name not in tasks:
            raise ValueError(
                f"unknown task {name!r}; known: {', '.join(sorted(tasks))}; types: {', '.join(TASK_TYPES)}"
            )
    return tasks
