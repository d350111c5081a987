"""A picture turned and mirrored in all eight ways, for what has no up and down."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diception.tasks import Task

WAYS = 8
"""Quarter turns, plain and mirrored."""


def turn(pictures: Tensor, way: int) -> Tensor:
    """(B, C, H, W) after `way % 4` quarter turns, then, from way 4 on, mirrored; a quarter turn swaps H and W."""
    turned = torch.rot90(pictures, way % 4, (2, 3))
    return turned.flip(3) if way >= 4 else turned


def turn_back(pictures: Tensor, way: int) -> Tensor:
    """The inverse of `turn`."""
    return torch.rot90(pictures.flip(3) if way >= 4 else pictures, -(way % 4), (2, 3))


def mean_of_views(paint: Callable[[Tensor, int], Tensor], pictures: Tensor) -> Tensor:
    """The mean of what is painted for all views, turned back: (B, 3, H, W), float32.

    Args:
        paint: of a view (B, 3, h, w) and its way, a painting (B, 3, h, w).
        pictures: (B, 3, H, W).
    """
    total = torch.zeros_like(pictures, dtype=torch.float32)
    for way in range(WAYS):
        total += turn_back(paint(turn(pictures, way), way), way)
    return total / WAYS


def check_turns(task: Task, turns: bool) -> None:
    """ValueError where views of a task are asked for whose paintings do not turn with the picture."""
    if turns and not task.turns:
        raise ValueError(f"what task {task.name!r} paints does not turn with the picture; sample it without turns")
