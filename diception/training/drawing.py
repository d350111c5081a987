"""Noise, sigmas and dropped prompts of a batch, drawn where the batch is made: the loader's processes, not the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diception.datasets.sample import Batch
from diception.flow import Density, draw


@dataclass(frozen=True)
class Drawing:
    """What is drawn for a sample from its seed, see `flow.draw`."""

    density: Density
    """Of sigma."""
    prompt_dropout: float
    channels: int
    """C of the latents."""
    factor: int
    """Side in pixels of a latent cell."""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with noise, sigmas and drop_prompt, unless it has them."""
        if batch.noise is not None:
            return batch
        sides = (s // self.factor for s in batch.image.shape[2:]) if batch.latents is None else batch.latents.shape[3:]
        drawn = draw(batch.seeds.cpu(), (self.channels, *sides), self.density, self.prompt_dropout)
        found = replace(batch, noise=drawn.noise, sigmas=drawn.sigmas, drop_prompt=drawn.drop_prompt)
        return found.to(batch.seeds.device)


@dataclass(frozen=True)
class DrawnCollate:
    """Makes a batch of examples and draws for it."""

    collate: Callable[[Sequence[Any]], Batch]
    drawing: Drawing

    def __call__(self, examples: Sequence[Any]) -> Batch:
        return self.drawing(self.collate(examples))
