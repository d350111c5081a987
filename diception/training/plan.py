"""What a run would do, checked and told without doing it: data, batches, memory. Nothing is loaded or written."""

from __future__ import annotations

from pathlib import Path

from diception.config import TrainConfig
from diception.datasets.mixture import BLOCK, Stream
from diception.model.checkpoint import transformer_size
from diception.training.build import build_model, check_same_run, config_tasks
from diception.training.checkpoints import newest_checkpoint
from diception.training.datamodule import StreamModule, open_held_out, open_stream
from diception.training.loggers import build_loggers
from diception.training.module import build_density
from diception.training.optim import check_schedule
from diception.training.sharding import check_strategy

FULL = {"weights": 4, "gradients": 4, "moments": 8}
"""Bytes a trained parameter; the moving average has 4 more."""


def plan(config: TrainConfig) -> str:
    """Lines that say what `train` would do with this config.

    Raises:
        ValueError: as `train` would, for whatever can be seen without the weights.
    """
    folder = Path(config.run)
    build_density(config.flow)
    check_schedule(config.optim.schedule)
    check_strategy(config)
    build_loggers(config.loggers, folder, "")
    check_same_run(config, folder / "config.yaml")
    tasks = config_tasks(config, [])
    stream = open_stream(config.data, tasks, config.seed)
    StreamModule(stream, config)
    held_out = open_held_out(config.data, tasks)
    newest = newest_checkpoint(folder)
    lines = [
        f"run {folder}: {f'goes on from {newest.name}' if newest else 'from the start'}, {config.steps} steps",
        _batches(config),
        _memory(config),
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


def _memory(config: TrainConfig) -> str:
    if config.model.base == "small":
        count = sum(parameter.numel() for parameter in build_model(config).transformer.parameters())
    else:
        count = transformer_size(config.model.base)
    share = 1.0 if config.adapter is None else config.adapter.max_share
    trained = sum(FULL.values()) + (4 if config.optim.ema else 0)
    size = count * (share * trained + (1 - share) * FULL["weights"]) / 1e9
    what = "all trained" if config.adapter is None else f"at most {share:.1%} trained"
    return (
        f"transformer of {count / 1e6:.1f} M parameters, {what}: {size:.1f} GB a device for weights, gradients, "
        "moments and average; the autoencoder and activations come on top"
    )


def _data(config: TrainConfig, stream: Stream) -> list[str]:
    drawn = config.steps * config.batch_size
    lines = [f"{drawn} samples are drawn:"]
    for pair in stream.pairs:
        share, count = pair.slots / BLOCK, len(pair.samples)
        lines.append(f"  {pair.name}: {share:.1%}, {count} samples, each {drawn * share / count:.1f} times")
    return lines
