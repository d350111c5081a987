"""What a run would do, checked and told without doing it: data, batches, memory. Nothing is loaded or written."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from diception.config import TrainConfig
from diception.datasets.mixture import BLOCK, Stream
from diception.model.autoencoder import pixel_bytes
from diception.model.checkpoint import transformer_outline
from diception.model.weights import TINY
from diception.training.build import build_model, check_precision, check_same_run, config_tasks
from diception.training.checkpoints import newest_checkpoint
from diception.training.datamodule import check_batches, open_held_out, open_stream
from diception.training.footprint import footprint
from diception.training.latents import latents_folder
from diception.training.loggers import build_loggers
from diception.training.module import build_density
from diception.training.optim import check_schedule
from diception.training.sharding import check_strategy


def plan(config: TrainConfig) -> str:
    """Lines that say what `train` would do with this config.

    Raises:
        ValueError: as `train` would, for whatever can be seen without the weights.
    """
    folder = Path(config.run)
    build_density(config.flow)
    check_schedule(config.optim.schedule)
    check_strategy(config)
    build_loggers(config, "")
    check_same_run(config, folder / "config.yaml")
    tasks = config_tasks(config, [])
    stream = open_stream(config.data, tasks, config.seed)
    check_batches(config)
    held_out = open_held_out(config.data, tasks)
    newest = newest_checkpoint(folder)
    lines = [
        f"run {folder}: {f'goes on from {newest.name}' if newest else 'from the start'}, {config.steps} steps",
        _batches(config),
        *_memory(config),
        *_data(config, stream),
        *(f"  validation: {data.task.name}, {len(data)} samples" for data in held_out),
    ]
    return "\n".join(lines)


def _batches(config: TrainConfig) -> str:
    ranks = config.devices * config.nodes
    own = config.batch_size // (config.accumulate * ranks)
    return (
        f"batch {config.batch_size} = {own} samples x {ranks} devices x {config.accumulate} parts, "
        f"{config.data.size} x {config.data.size}, {config.precision}"
    )


def _memory(config: TrainConfig) -> list[str]:
    check_precision(config)
    if config.model.base == "small":
        transformer, text_tokens = dict(build_model(config).transformer.config), config.model.text_tokens
    else:
        transformer, text_tokens = transformer_outline(config.model.base)
    taken = footprint(config, transformer, text_tokens, pixel_bytes(_autoencoder(config)))
    parts = ", ".join(f"{f.name} {getattr(taken, f.name) / 1e9:.1f}" for f in fields(taken) if f.type == "float")
    share = taken.trained / taken.parameters
    return [
        f"transformer of {taken.parameters / 1e6:.1f} M parameters, {share:.1%} trained; strategy {config.strategy}",
        f"memory about {taken.total / 1e9:.1f} GB a device, estimated: {parts} (the larger of the last two counts); "
        "kernels and what the allocator cannot use come on top",
    ]


def _autoencoder(config: TrainConfig) -> Path:
    if config.model.base == "small":
        return Path(config.model.autoencoder)
    return (TINY if config.model.base == "tiny" else Path(config.model.base)) / "vae"


def _data(config: TrainConfig, stream: Stream) -> list[str]:
    drawn = encoded = config.steps * config.batch_size
    lines = [f"{drawn} samples are drawn:"]
    if config.data.latents:
        encoded, cells = config.data.latents, (config.data.size // 8) ** 2
        size = encoded * cells * 2 * 16 * 2 / 1e9  # image and target, channels, bytes
        lines = [
            f"{encoded} samples are drawn and encoded once, about {size:.1f} GB in {latents_folder(config)}, "
            f"and each is trained on {drawn / encoded:.1f} times:"
        ]
    for pair in stream.pairs:
        share, count = pair.slots / BLOCK, len(pair.samples)
        lines.append(f"  {pair.name}: {share:.1%}, {count} samples, each {encoded * share / count:.1f} times")
    return lines
