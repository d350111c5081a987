"""Overlapping windows of a picture that is larger than what the model sees at once, and how they agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from diception.datasets.sample import Batch

CELL = 8
"""Windows begin at whole cells of the latents."""
OVERLAP = 0.25
"""Least share of a window's side that its neighbour has, too."""


@dataclass(frozen=True)
class Windows:
    """Squares that cover a picture of `height` x `width`; where several do, a mean that favours their middles counts.

    In every step of the sampler all windows go on from the mean of their velocities, so that there is no seam between
    them (Bar-Tal et al., MultiDiffusion, 2023).
    """

    height: int
    """In pixels, a multiple of 16, as are the others."""
    width: int
    side: int

    def __post_init__(self) -> None:
        if self.side > min(self.height, self.width):
            raise ValueError(f"windows of {self.side} pixels do not fit a picture of {self.height} x {self.width}")

    @property
    def places(self) -> list[tuple[int, int]]:
        """(top, left) of every window, in pixels."""
        return list(product(_starts(self.height, self.side), _starts(self.width, self.side)))

    def cut(self, whole: Tensor) -> Tensor:
        """(1, C, H / s, W / s) to the windows (N, C, side / s, side / s); the scale s is 1 in pixels, 8 in latents."""
        scale = self.height // whole.shape[-2]
        side = self.side // scale
        places = [(top // scale, left // scale) for top, left in self.places]
        return torch.cat([whole[..., top : top + side, left : left + side] for top, left in places])

    def join(self, parts: Tensor) -> Tensor:
        """The windows (N, C, h, w) to the weighted mean (1, C, H / s, W / s) that they cover."""
        side = parts.shape[-1]
        scale = self.side // side
        ramp = torch.arange(side, device=parts.device, dtype=torch.float32)
        ramp = torch.minimum(ramp + 0.5, side - 0.5 - ramp)
        weight = ramp[:, None] * ramp
        total = parts.new_zeros(1, parts.shape[1], self.height // scale, self.width // scale, dtype=torch.float32)
        weights = torch.zeros_like(total[:, :1])
        for part, (top, left) in zip(parts, self.places, strict=True):
            window = (..., slice(top // scale, top // scale + side), slice(left // scale, left // scale + side))
            total[window] += weight * part
            weights[window] += weight
        return (total / weights).to(parts.dtype)

    def agree(self, parts: Tensor) -> Tensor:
        """The windows (N, C, h, w) with that mean in all of them."""
        return self.cut(self.join(parts))

    def batch(self, whole: Batch, index: int) -> Batch:
        """One picture of a batch as a batch of its windows, all with its prompt."""
        count = len(self.places)
        return replace(
            whole,
            image=self.cut(whole.image[index : index + 1]),
            target=None,
            valid=None,
            prompts=[whole.prompts[index]] * count,
            points=whole.points[index : index + 1].expand(count, -1, -1),
            point_mask=whole.point_mask[index : index + 1].expand(count, -1),
            tasks=[whole.tasks[index]] * count,
            keys=[whole.keys[index]] * count,
            seeds=whole.seeds[index : index + 1].expand(count),
            truths=[],
        )


def _starts(length: int, side: int) -> list[int]:
    """Evenly spread beginnings of windows, at whole cells, the first at 0 and the last at the end."""
    count = 1 if length == side else 1 + -(-(length - side) // int(side * (1 - OVERLAP)))
    return [round(i * (length - side) / max(1, count - 1) / CELL) * CELL for i in range(count)]
