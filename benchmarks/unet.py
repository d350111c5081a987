"""A small U-Net: what a practitioner would train from scratch instead."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(8, width),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(8, width),
        nn.SiLU(),
    )


class UNet(nn.Module):
    """(B, 3, H, W) in [0, 1] to logits (B, 1, H, W); 1.1 million parameters."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 112, 144)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((3, *widths), widths, strict=False))
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(_block(deep + flat, flat) for deep, flat in pairs)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        found, x = [], image - 0.5
        for number, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if number else x)
            found.append(x)
        for block, beside in zip(self.up, found[-2::-1], strict=True):
            grown = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([grown, beside], dim=1))
        return self.head(x)
