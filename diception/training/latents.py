"""A few images' latents, encoded once: the steps of an adaptation then neither read, augment nor encode anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch.utils.data import Dataset

from diception.datasets.mixture import Stream
from diception.datasets.order import NOISE, PERMUTATION, generator
from diception.datasets.sample import Batch, collate_training, join_batches
from diception.flow import latent_weight
from diception.model.diception import Diception

AT_ONCE = 8
"""Examples that are encoded together."""


class LatentStream(Dataset[tuple[int, int]]):
    """The first `count` examples of a stream as latents, over and over, each time in another order with other noise.

    A stream of n samples draws each of them once in n positions: with `count` = k n there are k augmentations of each.
    `stream[p]` is the number of an example and the seed of its noise, on any number of ranks and after any resume.
    """

    def __init__(
        self, model: Diception, stream: Stream, count: int, progress: Callable[[Iterable], Iterable] = iter
    ) -> None:
        """Encodes now, on the model's device; the latents stay on the CPU.

        Args:
            model: its autoencoder encodes.
            stream: of the examples.
            count: of examples, at least 1.
            progress: wraps the loop over batches of examples.
        """
        self.pairs, self.seed = stream.pairs, stream.seed
        starts = progress(range(0, count, AT_ONCE))
        self.examples = join_batches([_encode(model, stream, range(s, min(s + AT_ONCE, count))) for s in starts])

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, turn = divmod(position, len(self.examples))
        order = generator(self.seed, PERMUTATION, epoch).permutation(len(self.examples))
        return int(order[turn]), int(generator(self.seed, NOISE, position).integers(1 << 63))

    def collate(self, chosen: Sequence[tuple[int, int]]) -> Batch:
        """The examples of these numbers, with these seeds."""
        numbers, seeds = zip(*chosen, strict=True)
        return replace(self.examples.select(numbers), seeds=torch.tensor(seeds, dtype=torch.int64))


@torch.no_grad()
def _encode(model: Diception, stream: Stream, positions: Iterable[int]) -> Batch:
    """The examples at these positions with latents in place of pixels."""
    batch = collate_training([stream[position] for position in positions])
    assert batch.target is not None and batch.valid is not None
    latents = torch.stack([model.encode(rgb.to(model.device)).cpu() for rgb in (batch.image, batch.target)], dim=1)
    weight, nothing = latent_weight(batch.valid, model.autoencoder.factor), batch.image.new_empty(len(batch), 3, 0, 0)
    return replace(batch, image=nothing, target=nothing, valid=weight, latents=latents)
