"""Means of the losses between two lines of the logs, over all ranks and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SIGMA_BANDS = (0.25, 0.5, 0.75, 0.999)
"""Upper ends of the first bands; the last holds sigma 1 alone: the task without any hint."""


class LossMeter:
    """Sums since they were last asked for; they belong into checkpoints, so that a resumed run logs the same."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = {task: number for number, task in enumerate(tasks)}
        bands = [f"loss_by_sigma/{band}" for band in range(len(SIGMA_BANDS) + 1)]
        self.names = ["loss", "masked_share", *bands, *(f"loss/{task}" for task in tasks)]
        self.sums = torch.zeros(2, len(self.names), dtype=torch.float64)
        """Sum and number of the values under each name, on this rank."""

    @torch.no_grad()
    def add(self, losses: Tensor, sigmas: Tensor, tasks: Sequence[str], masked: Tensor) -> None:
        """Losses, sigmas and shares of latent cells without loss, (B,) each, and the task of every sample."""
        self.sums = self.sums.to(losses.device)
        bands = torch.bucketize(sigmas, torch.tensor(SIGMA_BANDS, device=sigmas.device))
        own = torch.tensor([self.tasks[task] for task in tasks], device=losses.device) + 3 + len(SIGMA_BANDS)
        columns = torch.cat([torch.zeros_like(bands), torch.ones_like(bands), 2 + bands, own])
        values = torch.cat([losses, masked, losses, losses]).double()
        self.sums.index_put_((torch.zeros_like(columns), columns), values, accumulate=True)
        self.sums.index_put_((torch.ones_like(columns), columns), torch.ones_like(values), accumulate=True)

    def take(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means by name, of whatever occurred, and a new start; `reduce` sums over ranks, all of which call."""
        sums, counts = reduce(self.sums.clone()).tolist()
        self.sums.zero_()
        return {name: s / n for name, s, n in zip(self.names, sums, counts, strict=True) if n}
