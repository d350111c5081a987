"""Flow matching: the noising rule, its target, the density of sigma and the loss. Sigma 1 is noise, sigma 0 is data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DENSITIES = ("logit_normal", "uniform")


def add_noise(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Straight path between data and noise (SD3 eq. 13, rectified flow).

    Args:
        latents: (B, C, h, w) data.
        noise: (B, C, h, w), standard normal.
        sigmas: (B,) in [0, 1].

    Returns:
        (B, C, h, w): `(1 - sigma) * latents + sigma * noise`.
    """
    sigmas = _per_sample(sigmas, latents)
    return (1 - sigmas) * latents + sigmas * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """The derivative of `add_noise` by sigma, which the transformer regresses: `noise - latents`, (B, C, h, w)."""
    return noise - latents


def flow_matching_loss(velocity: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, per sample (DICEPTION eq. 2).

    Args:
        velocity: (B, C, h, w) as predicted.
        target: (B, C, h, w) as `velocity_target` gives it.
        weight: (B, 1, h, w) in [0, 1], where the loss counts; a sample without any such cell has the loss 0.

    Returns:
        (B,) losses in float32.
    """
    error = (velocity.float() - target.float()).square()
    if weight is None:
        return error.mean(dim=(1, 2, 3))
    cells = weight.float().sum(dim=(1, 2, 3)) * error.shape[1]
    return (error * weight).sum(dim=(1, 2, 3)) / cells.clamp(min=1)


def latent_weight(valid: Tensor, factor: int) -> Tensor:
    """(B, 1, H, W) valid pixels, bool or 0 and 1, to (B, 1, h, w): a cell counts if every pixel under it is valid."""
    invalid = torch.nn.functional.max_pool2d(1 - valid.float(), factor)
    return 1 - invalid


@dataclass(frozen=True)
class Draw:
    """What is random in one training step, keyed on each sample's seed."""

    noise: Tensor
    """(B, C, h, w) standard normal."""
    sigmas: Tensor
    """(B,) in (0, 1]."""
    drop_prompt: Tensor
    """(B,) bool: these samples are trained without prompt and points, for guidance."""


def draw(
    seeds: Tensor,
    shape: tuple[int, ...],
    density: str = "logit_normal",
    mean: float = 0.0,
    std: float = 1.0,
    share_at_one: float = 0.0,
    prompt_dropout: float = 0.0,
) -> Draw:
    """Noise, sigma and prompt dropout of every sample from the sample's own seed.

    Because nothing depends on the batch around a sample, a step is the same on any number of ranks and after any
    resume. Drawn on the CPU, so that it is the same on every device.

    Args:
        seeds: (B,) int64.
        shape: (C, h, w) of one sample's latents.
        density: `logit_normal`: sigmoid(N(mean, std)) (SD3 section 3.1), or `uniform`.
        share_at_one: this share of samples has sigma 1 exactly; a small model from random weights needs it.
        prompt_dropout: share of samples whose prompt is dropped.

    Raises:
        ValueError: unknown density.
    """
    check_density(density)
    noise, sigmas, dropped = [], [], []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed)
        noise.append(torch.randn(shape, generator=generator))
        normal = torch.randn((), generator=generator)
        uniform, at_one, drop = torch.rand(3, generator=generator).unbind()
        sigma = torch.sigmoid(mean + std * normal) if density == "logit_normal" else 1 - uniform
        sigmas.append(torch.where(at_one < share_at_one, torch.ones(()), sigma))
        dropped.append(drop < prompt_dropout)
    return Draw(torch.stack(noise), torch.stack(sigmas), torch.stack(dropped))


def check_density(density: str) -> None:
    """ValueError unless it is one of DENSITIES."""
    if density not in DENSITIES:
        raise ValueError(f"density is {density!r}; allowed: {', '.join(DENSITIES)}")


def seeded_noise(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) standard normal noise, each sample from its own seed (B,); equal to the noise of `draw`."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()])


def _per_sample(sigmas: Tensor, like: Tensor) -> Tensor:
    return sigmas.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
