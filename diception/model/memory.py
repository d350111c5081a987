"""What makes a model fit or run faster: quantised blocks, weights that wait on the CPU, compiled blocks."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from torch import nn

from diception.model.diception import Diception
from diception.model.lora import base_hash

QUANTIZATIONS = ("int8", "nf4")
ADAPTER_PARTS = ("lora_A", "lora_B")


def prepare(
    model: Diception,
    device: str | torch.device,
    quantize: str | None = None,
    offload: bool = False,
    compile_blocks: bool = False,
) -> Diception:
    """Brings a model, adapter included, to the device where it answers; to be quantised or offloaded it is on the CPU.

    Args:
        model: in the type in which it computes.
        device: where it computes.
        quantize: `int8` or `nf4`: the linear maps of the transformer's blocks in 8 or 4 bits, by bitsandbytes.
        offload: transformer and autoencoder wait on the CPU; their parts come to the device in turn.
        compile_blocks: `torch.compile` of one block, whose code serves them all; compiled on first use.

    Raises:
        ValueError: an unknown quantisation, bitsandbytes not installed, or options that exclude each other.
    """
    if offload and (quantize is not None or compile_blocks):
        raise ValueError("offload goes with neither quantize nor compile: its hooks move plain weights between calls")
    if quantize is not None:
        quantize_blocks(model, quantize, device)
    if offload:
        _offload(model, torch.device(device))
    else:
        model.to(device)
    if compile_blocks:
        model.transformer.compile_repeated_blocks(fullgraph=True)
    return model


@torch.no_grad()
def quantize_blocks(model: Diception, kind: str, device: str | torch.device) -> None:
    """Replaces the linear maps of the blocks, layer by layer, so that the device never holds them in full.

    Adapters stay as they are: the frozen map below one is replaced, as in QLoRA (arXiv 2305.14314).
    """
    if kind not in QUANTIZATIONS:
        raise ValueError(f"quantize is {kind!r}; allowed: {', '.join(QUANTIZATIONS)}")
    library = bitsandbytes()
    if model.quantized_base is None:
        model.quantized_base = base_hash(model)  # adapters that come later were made for the plain weights
    blocks = model.transformer.transformer_blocks
    linear = {name: m for name, m in blocks.named_modules() if isinstance(m, nn.Linear)}
    for name, module in linear.items():
        if not any(part in name for part in ADAPTER_PARTS):
            blocks.set_submodule(name, _quantized(library, module, kind).to(device))


def is_quantized(model: Diception) -> bool:
    """Whether `quantize_blocks` was there: the weights cannot be stored or merged any more."""
    return any(type(m).__module__.startswith("bitsandbytes") for m in model.transformer.modules())


def _quantized(library: Any, linear: nn.Linear, kind: str) -> nn.Module:
    layers, shape, has_bias = library.nn, (linear.in_features, linear.out_features), linear.bias is not None
    new: Any
    if kind == "int8":
        new = layers.Linear8bitLt(*shape, has_bias, has_fp16_weights=False)
        new.weight = layers.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        new = layers.Linear4bit(*shape, has_bias, compute_dtype=linear.weight.dtype, quant_type="nf4")
        new.weight = layers.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4")
    new.bias = linear.bias
    return new


def bitsandbytes() -> ModuleType:
    """The library, which is optional; a ValueError says how to install it."""
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ValueError("few bits need bitsandbytes: pip install 'diception[quantize]'") from error


def _offload(model: Diception, device: torch.device) -> None:
    """The hooks of diffusers: blocks of the transformer and layers of the autoencoder, the next copied meanwhile."""
    streams = device.type == "cuda"
    points: Any = model.points
    points.to(device)
    apply_group_offloading(
        model.transformer, device, offload_type="block_level", num_blocks_per_group=1, use_stream=streams
    )
    for autoencoder in filter(None, (model.autoencoder, model.decoder)):
        # Its methods are `encode` and `decode`, and hooks see calls only: they sit on the layers.
        apply_group_offloading(autoencoder.vae, device, offload_type="leaf_level", use_stream=streams)
        for name, buffer in autoencoder.vae.named_buffers(recurse=False):
            setattr(autoencoder.vae, name, buffer.to(device))
