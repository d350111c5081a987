"""Flow matching: the noising rule, its target, the density of sigma and the loss. Sigma 1 is noise, sigma 0 is data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DENSITIES = ("logit_normal", "uniform", "mode", "cosmap")
WEIGHTINGS = ("none", "cosmap", "clean")


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
        weight: (B, 1, h, w) in [0, 1], what each cell counts; a sample in which none counts has the loss 0.

    Returns:
        (B,) losses in float32.
    """
    error = (velocity.float() - target.float()).square()
    if weight is None:
        return error.mean(dim=(1, 2, 3))
    cells = weight.float().sum(dim=(1, 2, 3)) * error.shape[1]
    return (error * weight).sum(dim=(1, 2, 3)) / cells.clamp(min=1)


def latent_weight(valid: Tensor, factor: int) -> Tensor:
    """(B, 1, H, W) valid pixels, bool or in [0, 1], to (B, 1, h, w): a cell counts as its least valid pixel does."""
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


LARGEST_MODE = 2 / (math.pi - 2)
"""Of SD3 eq. 20: with more, the map from uniform numbers to sigmas is no longer monotonic."""


@dataclass(frozen=True)
class Density:
    """The density of sigma in training; what it draws from changes which sigmas are seen, not what the loss weighs."""

    name: str = "logit_normal"
    """`logit_normal`: sigmoid(N(mean, std)) (SD3 eq. 19); `uniform`; `mode`: heavy tails (SD3 eq. 20); `cosmap`:
    the cosine schedule's (SD3 eq. 21)."""
    mean: float = 0.0
    """Of `logit_normal`."""
    std: float = 1.0
    """Of `logit_normal`."""
    mode_scale: float = 1.29
    """Of `mode`: above 0 the middle is favoured, below 0 the ends."""
    share_at_one: float = 0.0
    """This share of samples has sigma 1 exactly; a small model from random weights needs it."""

    def __post_init__(self) -> None:
        """ValueError where the name is unknown, or sigma would leave (0, 1]."""
        if self.name not in DENSITIES:
            raise ValueError(f"density is {self.name!r}; allowed: {', '.join(DENSITIES)}")

        if not -1 <= self.mode_scale <= LARGEST_MODE:
            raise ValueError(f"mode_scale is {self.mode_scale}; allowed is -1 to {LARGEST_MODE:.4f}")
        if not 0 <= self.share_at_one <= 1:
            raise ValueError(f"share_at_one is {self.share_at_one}; allowed is 0 to 1")

    def sigma(self, normal: Tensor, uniform: Tensor, at_one: Tensor) -> Tensor:
        """Sigma () in (0, 1] from one standard normal and two uniform numbers in [0, 1)."""
        if self.name == "logit_normal":
            sigma = torch.sigmoid(self.mean + self.std * normal)
        elif self.name == "mode":
            sigma = 1 - uniform - self.mode_scale * (torch.cos(math.pi / 2 * uniform) ** 2 - 1 + uniform)
        elif self.name == "cosmap":
            sigma = 1 / (torch.tan(math.pi / 2 * uniform) + 1)
        else:
            sigma = 1 - uniform
        return torch.where(at_one < self.share_at_one, torch.ones(()), sigma)


def loss_weight(sigmas: Tensor, weighting: str) -> Tensor:
    """What a sample's loss counts at its sigma, (B,); independent of the density that sigma was drawn from.

    Args:
        sigmas: (B,) in [0, 1].
        weighting: `none`; `cosmap`: 2 / (pi (1 - 2 sigma + 2 sigma^2)) (SD3 section 3.1); `clean`: sigma^2, with which
            the error of the velocity is that of the clean latents that it implies.

    Raises:
        ValueError: unknown weighting.
    """
    check_weighting(weighting)
    if weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
    return sigmas**2 if weighting == "clean" else torch.ones_like(sigmas)


def check_weighting(weighting: str) -> None:
    """ValueError unless it is one of WEIGHTINGS."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"flow.weighting is {weighting!r}; allowed: {', '.join(WEIGHTINGS)}")


def draw(seeds: Tensor, shape: tuple[int, ...], density: Density | None = None, prompt_dropout: float = 0.0) -> Draw:
    """Noise, sigma and prompt dropout of every sample from the sample's own seed.

    Because nothing depends on the batch around a sample, a step is the same on any number of ranks and after any
    resume. Drawn on the CPU, so that it is the same on every device.

    Args:
        seeds: (B,) int64.
        shape: (C, h, w) of one sample's latents.
        density: of sigma; logit-normal(0, 1) by default.
        prompt_dropout: share of samples whose prompt is dropped.
    """
    density = density or Density()
    noise, sigmas, dropped = [], [], []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed)
        noise.append(torch.randn(shape, generator=generator))
        normal = torch.randn((), generator=generator)
        uniform, at_one, drop = torch.rand(3, generator=generator).unbind()
        sigmas.append(density.sigma(normal, uniform, at_one))
        dropped.append(drop < prompt_dropout)
    return Draw(torch.stack(noise), torch.stack(sigmas), torch.stack(dropped))


def seeded_noise(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) standard normal noise, each sample from its own seed (B,); equal to the noise of `draw`."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()])


def _per_sample(sigmas: Tensor, like: Tensor) -> Tensor:
    return sigmas.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))
