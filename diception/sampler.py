"""The sampler: the schedule of sigmas, Euler steps along the velocity, and guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

TRAIN_STEPS = 1000


def sigma_schedule(steps: int, shift: float = 3.0) -> Tensor:
    """Sigmas from exactly 1 to exactly 0, as Stable Diffusion 3's scheduler spaces them.

    The spacing is linear between the shifted ends of the training table and shifted once more, so that the smallest
    sigma is shifted twice (diffusers `FlowMatchEulerDiscreteScheduler`); the released DICEPTION samples so.

    Args:
        steps: number of Euler steps, at least 1.
        shift: 1 leaves the spacing alone; SD3 uses 3.

    Returns:
        (steps + 1,) float32, strictly decreasing.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
    smallest = _shift(torch.tensor(1 / TRAIN_STEPS, dtype=torch.float64), shift)
    sigmas = _shift(torch.linspace(1.0, float(smallest), steps, dtype=torch.float64), shift)
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def sample_euler(
    velocity: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    sigmas: Tensor,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Integrates the flow from noise to data.

    Args:
        velocity: function of latents (B, C, h, w) and one sigma () to the velocity (B, C, h, w).
        latents: (B, C, h, w), noise at `sigmas[0]`.
        sigmas: (steps + 1,) from `sigma_schedule`.
        progress: wraps the loop, for a progress bar.

    Returns:
        (B, C, h, w) latents at `sigmas[-1]`.
    """
    for sigma, following in progress(list(pairwise(sigmas))):
        latents = latents + (following - sigma) * velocity(latents, sigma)
    return latents


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: the conditional velocity for scale 1, beyond it for more. All (B, C, h, w)."""
    return unconditional + scale * (conditional - unconditional)


def _shift(sigmas: Tensor, shift: float) -> Tensor:
    return shift * sigmas / (1 + (shift - 1) * sigmas)
