"""`denoise`, the only denoising loop, and `generate`, which paints its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diception.config import SamplingConfig
from diception.datasets.sample import Batch
from diception.flow import seeded_noise
from diception.sampler import guide, sample_euler, sigma_schedule

if TYPE_CHECKING:
    from diception.model.diception import Diception


@torch.no_grad()
def generate(
    model: Diception,
    batch: Batch,
    sampling: SamplingConfig,
    noise: Tensor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """What the model paints for every image in the batch: (B, 3, H, W) RGB in [0, 1], float32; see `denoise`."""
    return model.decode(denoise(model, batch, sampling, noise, progress)).float()


@torch.no_grad()
def denoise(
    model: Diception,
    batch: Batch,
    sampling: SamplingConfig,
    noise: Tensor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Denoises the target of every image in the batch.

    Args:
        model: the model; its autoencoder encodes and decodes.
        batch: `image` (B, 3, H, W) in [0, 1] with prompts and points; `seeds` fixes the noise.
        sampling: steps and guidance. Guidance runs only above 1.
        noise: (B, 16, h, w) to start from instead.
        progress: wraps the loop over steps.

    Returns:
        (B, C, h, w) latents, float32.
    """
    image_latents = model.encode(batch.image)
    if noise is None:
        noise = seeded_noise(batch.seeds, tuple(image_latents.shape[1:]))
    noise = noise.to(image_latents)
    height, width = batch.image.shape[-2:]
    condition = model.condition(batch.prompts, batch.points, batch.point_mask, (height, width))
    unconditional = model.uncondition(len(noise)) if sampling.guidance_scale > 1 else None

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        sigmas = sigma.to(latents).expand(len(latents))
        if unconditional is None:
            return model.velocity(latents, sigmas, image_latents, condition)
        both = unconditional.join(condition)
        predicted = model.velocity(latents.repeat(2, 1, 1, 1), sigmas.repeat(2), image_latents.repeat(2, 1, 1, 1), both)
        without, given = predicted.chunk(2)
        return guide(without, given, sampling.guidance_scale)

    sigmas = sigma_schedule(sampling.steps, model.settings.shift)
    return sample_euler(velocity, noise, sigmas, progress)
