"""Examples as latents, encoded once: the steps then neither read, augment, paint nor encode anything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from diception.config import TrainConfig
from diception.datasets.mixture import Pair, Stream
from diception.datasets.order import NOISE, PERMUTATION, generator
from diception.datasets.sample import Batch, collate_training, join_batches
from diception.flow import latent_weight
from diception.model.diception import Diception
from diception.model.weights import read_json, write_json

AT_ONCE = 16
"""Examples that are encoded together."""
PART = 512
"""Examples in a file."""
TENSORS, TEXTS = ("latents", "valid", "points", "point_mask"), ("prompts", "tasks", "keys")


class Examples(Protocol):
    """Encoded examples, in memory (a Batch) or in files."""

    def __len__(self) -> int: ...

    def select(self, numbers: Sequence[int]) -> Batch:
        """The examples of these numbers."""
        ...


class LatentStream(Dataset[tuple[int, int]]):
    """The first examples of a stream as latents, over and over, each time in another order with other noise.

    A stream of n samples of one task draws each of them once in n positions: k n examples hold k augmentations of each.
    `stream[p]` is the number of an example and the seed of its noise, on any number of ranks and after any resume.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int, examples: Examples) -> None:
        """Of a stream's pairs, its seed, and its first examples, encoded."""
        self.pairs, self.seed, self.examples = pairs, seed, examples

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, turn = divmod(position, len(self.examples))
        order = _order(self.seed, epoch, len(self.examples))
        return int(order[turn]), int(generator(self.seed, NOISE, position).integers(1 << 63))

    def collate(self, chosen: Sequence[tuple[int, int]]) -> Batch:
        """The examples of these numbers, with these seeds."""
        numbers, seeds = zip(*chosen, strict=True)
        return replace(self.examples.select(numbers), seeds=torch.tensor(seeds, dtype=torch.int64))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return generator(seed, PERMUTATION, epoch).permutation(count)


def encode(model: Diception, stream: Stream, count: int, progress: Callable[[Iterable], Iterable] = iter) -> Batch:
    """The first `count` examples of a stream with latents in place of pixels, encoded on the model's device, now.

    Args:
        model: its autoencoder encodes.
        stream: of the examples.
        count: of examples, at least 1.
        progress: wraps the loop over batches of examples.
    """
    starts = progress(range(0, count, AT_ONCE))
    parts = ([stream[position] for position in range(s, min(s + AT_ONCE, count))] for s in starts)
    return join_batches([encode_batch(model, collate_training(part)) for part in parts])


@torch.no_grad()
def encode_batch(model: Diception, batch: Batch) -> Batch:
    """The batch, on the CPU, with latents in place of its pixels."""
    assert batch.target is not None and batch.valid is not None
    device = next(model.autoencoder.parameters()).device
    images, targets = model.encode(torch.cat([batch.image, batch.target]).to(device)).cpu().chunk(2)
    latents = torch.stack([images, targets], dim=1)
    weight = latent_weight(batch.valid, model.autoencoder.factor)
    return replace(batch, image=_no_pixels(len(batch)), target=_no_pixels(len(batch)), valid=weight, latents=latents)


def _no_pixels(count: int) -> Tensor:
    return torch.empty(count, 3, 0, 0)


def latents_folder(config: TrainConfig) -> Path:
    """Where a run's encoded examples are."""
    return Path(config.data.latents_folder) if config.data.latents_folder else Path(config.run) / "latents"


class LatentFiles:
    """Encoded examples in files of PART each, in half precision: more than memory holds, and there after any end.

    Ranks write different files; each file is there whole or not at all.
    """

    def __init__(self, folder: Path, count: int) -> None:
        """`count`: of the examples; files of those that are missing are written by `write`."""
        self.folder, self.count = folder, count
        self._open: dict[int, tuple[Any, dict[str, list[str]]]] = {}

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "count": self.count, "_open": {}}

    def claim(self, identity: dict[str, Any], note: bool) -> None:
        """Refuses a folder with examples made of something else; `note`: this rank writes what they are made of.

        What a note of an earlier version does not tell is not compared.

        Raises:
            ValueError: names what differs.
        """
        identity = json.loads(json.dumps(identity | {"count": self.count, "part": PART}))
        noted = self.folder / "latents.json"
        before = read_json(noted) if noted.exists() else identity
        if differ := [name for name, value in identity.items() if before.get(name, value) != value]:
            raise ValueError(
                f"{self.folder} has examples of another {', '.join(differ)}; delete it, or choose another run"
            )
        if note and not noted.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(noted, identity)

    def missing(self, rank: int, ranks: int) -> list[list[int]]:
        """Of the parts that this rank is to write and that are not there, the positions of their examples."""
        parts = range(rank, -(-self.count // PART), ranks)
        every = {part: list(range(part * PART, min((part + 1) * PART, self.count))) for part in parts}
        return [positions for part, positions in every.items() if not self._path(part).exists()]

    def write(self, first: int, batch: Batch) -> None:
        """One part, of which `first` is the position of the first example."""
        assert batch.latents is not None and batch.valid is not None
        tensors = {name: getattr(batch, name).contiguous() for name in TENSORS}
        tensors |= {name: tensors[name].half() for name in ("latents", "valid")}
        path = self._path(first // PART)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")  # another run may write the same
        save_file(tensors, partial, {"texts": json.dumps({name: getattr(batch, name) for name in TEXTS})})
        partial.replace(path)

    def select(self, numbers: Sequence[int]) -> Batch:
        """The examples of these numbers, latents and weights in half precision."""
        rows = [self._row(*divmod(number, PART)) for number in numbers]
        tensors: dict[str, Any] = {name: torch.cat([row[name] for row in rows]) for name in TENSORS}
        texts: dict[str, Any] = {name: [row[name] for row in rows] for name in TEXTS}
        nothing = _no_pixels(len(rows))
        return Batch(image=nothing, target=nothing, seeds=torch.zeros(len(rows), dtype=torch.int64), **tensors, **texts)

    def _row(self, part: int, row: int) -> dict[str, Any]:
        if part not in self._open:
            file: Any = safe_open(self._path(part), "pt")
            self._open[part] = file, json.loads(file.metadata()["texts"])
        file, texts = self._open[part]
        tensors = {name: file.get_slice(name)[row : row + 1] for name in TENSORS}
        return tensors | {name: values[row] for name, values in texts.items()}

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06}.safetensors"
