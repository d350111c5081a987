"""Floating-point operations of a training step, counted by running the model's outline, and the share of the peak."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops, measure_flops

from diception.model.diception import Diception
from diception.training.outline import inputs, outline


def training_flops(model: Diception, size: int) -> float:
    """Operations of one sample of size x size pixels: both pictures encoded, the transformer forward and backward.

    What is computed again to save memory does not count, nor do an adapter's own weights, which are a hundredth. Of a
    model whose base is frozen the backward pass computes no gradient of its weights.
    """
    return _encoding(model, size) + _transformer(model, size)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Dense operations a second that the device's maker states for this type of number; None where not known."""
    try:
        return get_available_flops(device, torch.bfloat16 if "bf16" in precision else torch.float32)
    except ValueError:  # a type of number that the chip does not have
        return None


def _encoding(model: Diception, size: int) -> float:
    vae = copy.deepcopy(model.autoencoder.vae).to("meta")
    with torch.no_grad():
        return measure_flops(vae, lambda: vae.encode(torch.empty(2, 3, size, size, device="meta", dtype=vae.dtype)))


def _transformer(model: Diception, size: int) -> float:
    config, text_tokens = model.transformer.config, model.bank[[""]][0].shape[1]
    with torch.device("meta"):
        transformer: Any = outline(config, config["num_layers"])
        known = inputs(config, size, text_tokens)
    if not any(p.requires_grad for n, p in model.transformer.named_parameters() if ".lora_" not in n):
        transformer.requires_grad_(False)
        known[0].requires_grad_()
    return measure_flops(transformer, lambda: transformer(*known), lambda velocity: velocity.sum())
