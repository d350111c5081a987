"""A picture turned and mirrored in all eight ways, for what has no up and down."""

from __future__ import annotations

import torch
from torch import Tensor

WAYS = 8
"""Quarter turns, plain and mirrored."""


def turn(pictures: Tensor, way: int) -> Tensor:
    """(B, C, H, W) after `way % 4` quarter turns, then, from way 4 on, mirrored; a quarter turn swaps H and W."""
    turned = torch.rot90(pictures, way % 4, (2, 3))
    return turned.flip(3) if way >= 4 else turned


def turn_back(pictures: Tensor, way: int) -> Tensor:
    """The inverse of `turn`."""
    return torch.rot90(pictures.flip(3) if way >= 4 else pictures, -(way % 4), (2, 3))
