"""What a run takes of a device's memory, from its config alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diception.config import TrainConfig
from diception.model.autoencoder import AT_ONCE
from diception.model.lora import lora_size
from diception.training.outline import FACTOR, POINTS, inputs, outline

BYTES = {"fp32": 4.0, "bf16": 2.0, "nf4": 0.6}
"""Of a frozen parameter: in 4 bits with its block's scale, and what is not in a block's maps in 16."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on a device, and parameters of the transformer, of which or beside which so many are trained."""

    parameters: int
    trained: int
    weights: float
    gradients: float
    moments: float
    average: float
    activations: float
    """What the transformer's forward pass keeps for the backward pass, with copies of weights in bfloat16."""
    pictures: float
    """What the autoencoder needs for a moment, before the forward pass and in validations."""

    @property
    def total(self) -> float:
        """All bytes at the peak: of activations and pictures the larger."""
        kept = self.weights + self.gradients + self.moments + self.average
        return kept + max(self.activations, self.pictures)


def footprint(
    config: TrainConfig, transformer: Mapping[str, Any], text_tokens: int, pixel_bytes: float = 0.0
) -> Footprint:
    """An estimate without the autoencoder's weights, the embedder of points, and what kernels need for a moment.

    Args:
        config: of the run.
        transformer: diffusers' config of the transformer.
        text_tokens: L, length of the context.
        pixel_bytes: what the autoencoder takes for a pixel, see `autoencoder.pixel_bytes`.
    """
    with torch.device("meta"):
        model = outline(transformer, transformer["num_layers"])
    count = sum(parameter.numel() for parameter in model.parameters())
    ranks = config.devices * config.nodes if config.strategy == "fsdp" else 1
    own, frozen = count, 0
    if config.adapter is not None:
        own = lora_size(model, config.adapter.rank or None, config.adapter.streams, config.adapter.max_share)[1]
        frozen = count
    trained = own / ranks
    return Footprint(
        parameters=count,
        trained=own,
        weights=4 * trained + BYTES[config.model.base_precision] * frozen,
        gradients=4 * trained,
        moments=(2 if config.optim.name == "adamw8bit" else 8) * trained,
        average=4 * trained if config.optim.ema else 0,
        activations=_activations(config, transformer, text_tokens),
        pictures=pixel_bytes * min(2 * _own_batch(config) * config.data.size**2, max(AT_ONCE, config.data.size**2)),
    )


def _own_batch(config: TrainConfig) -> int:
    return config.batch_size // (config.accumulate * config.devices * config.nodes)


def _activations(config: TrainConfig, transformer: Mapping[str, Any], text_tokens: int) -> float:
    """Of all blocks from those of two and three: each adds as much but the last, which drops its context."""
    saved = {(n, b): _saved(config, transformer, text_tokens, n, b) for n in (2, 3) for b in (1, 2)}
    two, three = (saved[n, 2] - saved[n, 1] for n in (2, 3))  # of a sample
    copies = [saved[n, 1] - sample for n, sample in ((2, two), (3, three))]
    layers, every = transformer["num_layers"], config.model.gradient_checkpointing
    again = -(-layers // every) if every else 0
    # At the peak one of the blocks that are computed again is whole.
    whole = layers - again + (1 if again else 0)
    per_sample = two + (whole - 2) * (three - two) + again * _stream(config, transformer, text_tokens)
    return _own_batch(config) * per_sample + copies[0] + (layers - 2) * (copies[1] - copies[0])


def _saved(config: TrainConfig, transformer: Mapping[str, Any], text_tokens: int, layers: int, batch: int) -> int:
    """Bytes that so many blocks keep for a backward pass, by running them on tensors without values."""
    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    bf16 = torch.autocast("cpu", torch.bfloat16) if "bf16" in config.precision else nullcontext()
    frozen_bf16 = config.model.base_precision == "bf16"
    with FakeTensorMode(), torch.device("cpu"):
        with _default(torch.bfloat16 if frozen_bf16 else torch.float32):
            model = outline(transformer, layers)
        known = inputs(transformer, config.data.size, text_tokens, batch)
        if config.adapter is not None:
            model.requires_grad_(False)
            known[0].requires_grad_()
        with bf16, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(*known)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return sum(storage.nbytes() for number, storage in storages.items() if number not in own)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Within the block modules are made in this type; those without values cannot be converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _stream(config: TrainConfig, transformer: Mapping[str, Any], text_tokens: int) -> int:
    """Bytes of what goes from one block to the next, of a sample."""
    cells = config.data.size // FACTOR // transformer["patch_size"]
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    return (2 * cells**2 + text_tokens + POINTS) * width * (2 if "bf16" in config.precision else 4)
