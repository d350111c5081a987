"""The transformer's outline, which has shapes and no values: on it is counted what a step costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diception.model.transformer import DiceptionTransformer

POINTS = 5
FACTOR = 8
"""Pixels along a side of a latent cell, of all autoencoders that SD3's latents have."""


def outline(config: Mapping[str, Any], layers: int) -> DiceptionTransformer:
    """The transformer of a diffusers config with so many blocks; under `torch.device("meta")` or a fake mode."""
    return DiceptionTransformer.from_config(dict(config) | {"num_layers": layers})  # type: ignore[return-value]


def inputs(config: Mapping[str, Any], size: int, text_tokens: int, batch: int = 1) -> tuple[Tensor, ...]:
    """What it takes for images of size x size pixels: latents, image latents, timestep, context, pooled, points."""
    cells, width = size // FACTOR, config["num_attention_heads"] * config["attention_head_dim"]
    latents = torch.empty(batch, config["in_channels"], cells, cells)
    context = torch.empty(batch, text_tokens, config["joint_attention_dim"])
    pooled = torch.empty(batch, config["pooled_projection_dim"])
    return latents, latents.clone(), torch.empty(batch), context, pooled, torch.empty(batch, POINTS, width)
