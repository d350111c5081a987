"""`denoise`, the only denoising loop, and `generate`, which paints its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diception.config import SamplingConfig
from diception.datasets.sample import Batch
from diception.flow import seeded_noise
from diception.inference.turns import mean_of_views
from diception.inference.windows import Windows
from diception.sampler import guide, sample_euler, sigma_schedule

if TYPE_CHECKING:
    from diception.model.diception import Diception

AT_ONCE = 8
"""Windows of one picture that go through the transformer together."""


@torch.no_grad()
def generate(
    model: Diception,
    batch: Batch,
    sampling: SamplingConfig,
    noise: Tensor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """What the model paints for every image in the batch: (B, 3, H, W) RGB in [0, 1], float32; see `denoise`."""
    if not sampling.turns:
        return _paint(model, batch, sampling, noise, progress)
    start = _start(model, batch, sampling) if noise is None else noise

    def paint(view: Tensor, way: int) -> Tensor:
        # The noise does not turn with the picture: so its part in the paintings is averaged, too.
        own = start if way % 2 == 0 else start.transpose(2, 3)
        return _paint(model, replace(batch, image=view), sampling, own, progress)

    return mean_of_views(paint, batch.image)


def _paint(
    model: Diception,
    batch: Batch,
    sampling: SamplingConfig,
    noise: Tensor | None,
    progress: Callable[[Iterable], Iterable],
) -> Tensor:
    """As it lies; in windows where the picture is larger than one."""
    height, width = batch.image.shape[-2:]
    if not sampling.window or (height, width) == (sampling.window, sampling.window):
        return model.decode(denoise(model, batch, sampling, noise, progress)).float()
    windows, painted = Windows(height, width, sampling.window), []
    for index in range(len(batch)):
        part = windows.batch(batch, index)
        own = slice(index, index + 1)
        start = _start(model, batch, sampling, own) if noise is None else noise[own]
        latents = denoise(model, part, sampling, windows.cut(start), progress, windows.agree)
        painted.append(windows.join(model.decode(latents).float()))
    return torch.cat(painted)


@torch.no_grad()
def denoise(
    model: Diception,
    batch: Batch,
    sampling: SamplingConfig,
    noise: Tensor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    agree: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Denoises the target of every image in the batch.

    Args:
        model: the model; its autoencoder encodes and decodes.
        batch: `image` (B, 3, H, W) in [0, 1] with prompts and points; `seeds` fixes the noise.
        sampling: steps and guidance. Guidance runs only above 1.
        noise: (B, 16, h, w) to start from instead.
        progress: wraps the loop over steps.
        agree: maps the velocities (B, C, h, w) of every step to those that are followed: of windows of one picture to
            their mean. The images then go through the transformer a few at a time.

    Returns:
        (B, C, h, w) latents, float32.
    """
    image_latents = model.encode(batch.image)
    noise = (_start(model, batch, sampling) if noise is None else noise).to(image_latents)
    height, width = batch.image.shape[-2:]
    condition = model.condition(batch.prompts, batch.points, batch.point_mask, (height, width))
    unconditional = model.uncondition(len(noise)) if sampling.guidance_scale > 1 else None

    def velocity(latents: Tensor, sigma: Tensor, part: slice = slice(None)) -> Tensor:
        own, image, sigmas = condition[part], image_latents[part], sigma.to(latents).expand(len(latents))
        if unconditional is None:
            return model.velocity(latents, sigmas, image, own)
        both = unconditional[part].join(own)
        predicted = model.velocity(latents.repeat(2, 1, 1, 1), sigmas.repeat(2), image.repeat(2, 1, 1, 1), both)
        without, given = predicted.chunk(2)
        return guide(without, given, sampling.guidance_scale)

    def agreed(latents: Tensor, sigma: Tensor) -> Tensor:
        if agree is None:
            return velocity(latents, sigma)
        parts = [slice(start, start + AT_ONCE) for start in range(0, len(latents), AT_ONCE)]
        return agree(torch.cat([velocity(latents[part], sigma, part) for part in parts]))

    sigmas = sigma_schedule(sampling.steps, model.settings.shift)
    return sample_euler(agreed, noise, sigmas, progress)


def _start(model: Diception, batch: Batch, sampling: SamplingConfig, part: slice = slice(None)) -> Tensor:
    """(B, C, h, w) noise of the samples' seeds, or zeros."""
    factor, seeds = model.autoencoder.factor, batch.seeds[part]
    height, width = batch.image.shape[-2:]
    shape = (model.autoencoder.channels, height // factor, width // factor)
    return torch.zeros(len(seeds), *shape) if sampling.start == "zero" else seeded_noise(seeds, shape)
