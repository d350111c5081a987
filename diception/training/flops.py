"""Floating-point operations of a training step, counted by running the model's outline, and the share of the peak."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lightning.fabric.utilities.throughput import measure_flops

from diception.model.diception import Diception
from diception.training.outline import inputs, outline

BFLOAT16_TERAFLOPS = {
    **{"B200": 2250, "H200 NVL": 835, "H200": 989, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989, "H800 PCIe": 756},
    **{"H800": 989, "A100": 312, "A800": 312, "L40S": 362, "L40": 181, "L4": 121, "A10G": 70, "A10": 125},
    **{"RTX 6000 Ada": 364, "A6000": 155, "5090": 209.5, "4090": 165, "3090": 71},
}
"""By a part of the device's name, the longer first; dense, as the data sheets state them, with sums in float32."""


def training_flops(model: Diception, size: int) -> float:
    """Operations of one sample of size x size pixels: both pictures encoded, the transformer forward and backward.

    What is computed again to save memory does not count, nor do an adapter's own weights, which are a hundredth. Of a
    model whose base is frozen the backward pass computes no gradient of its weights.
    """
    return _encoding(model, size) + _transformer(model, size)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Dense bfloat16 operations a second that the device's maker states; None where not known, and in float32."""
    if device.type != "cuda" or "bf16" not in precision:
        return None
    name = torch.cuda.get_device_name(device)
    return next((tera * 1e12 for part, tera in BFLOAT16_TERAFLOPS.items() if part in name), None)


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
