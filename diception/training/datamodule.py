"""Sources, tasks and loaders of a run, from its config."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from diception.config import AugmentConfig, DataConfig, TrainConfig
from diception.datasets.cache import ShardCache
from diception.datasets.mixture import PositionSampler, Source, Stream
from diception.datasets.sample import join_batches
from diception.datasets.shards import ShardReader
from diception.datasets.transforms import Augment
from diception.evaluation import HeldOut, world
from diception.model.diception import Diception
from diception.model.hashing import weights_hash
from diception.tasks import Task
from diception.tasks.base import PAINTING
from diception.training.drawing import Drawing, DrawnCollate
from diception.training.latents import AT_ONCE, LatentFiles, LatentStream, encode_batch, latents_folder


class StreamModule(L.LightningDataModule):
    """Serves the stream from wherever the trainer's step count says: nothing about data is ever saved.

    With `data.latents` its first examples are encoded into files before the first step.
    """

    def __init__(self, stream: Stream | LatentStream, model: Diception, config: TrainConfig, drawing: Drawing):
        """`model`: its autoencoder encodes; `drawing`: of noise and sigmas."""
        super().__init__()
        self.stream = stream
        self.drawing = drawing
        self.model = model
        self.config = config
        check_batches(config)

    def setup(self, stage: str) -> None:
        """Encodes this rank's share of what is to be encoded and is not yet; Lightning waits for all ranks after it."""
        if not self.config.data.latents or isinstance(self.stream, LatentStream):
            return
        assert self.trainer is not None
        files = LatentFiles(latents_folder(self.config), self.config.data.latents)
        files.claim(self._identity(self.stream), note=self.trainer.is_global_zero)
        if parts := files.missing(*world()):
            self._encode(files, parts)
        self.stream = LatentStream(self.stream.pairs, self.stream.seed, files)

    def _encode(self, files: LatentFiles, parts: list[list[int]]) -> None:
        """Writes these parts, encoded on this rank's device."""
        assert self.trainer is not None
        loader = DataLoader(
            self.stream,
            batch_sampler=[part[i : i + AT_ONCE] for part in parts for i in range(0, len(part), AT_ONCE)],
            collate_fn=self.stream.collate,
            num_workers=self.config.data.workers,
            worker_init_fn=_leave_signals,
        )
        autoencoder = self.model.autoencoder
        home = next(autoencoder.parameters()).device
        autoencoder.to(self.trainer.strategy.root_device)
        batches = iter(tqdm(loader, "encode", unit="batch", disable=not self.trainer.is_global_zero))
        for part in parts:
            encoded = [encode_batch(self.model, next(batches)) for _ in range(-(-len(part) // AT_ONCE))]
            files.write(part[0], join_batches(encoded))
        autoencoder.to(home)

    def _identity(self, stream: Stream) -> dict[str, Any]:
        """What the encoded examples depend on."""
        weights = dict(self.model.autoencoder.state_dict())
        pairs = [(pair.name, pair.slots, len(pair.samples), pair.task.as_dict()) for pair in stream.pairs]
        drawn = {"size": stream.size, "seed": stream.seed, "augment": repr(stream.augment), "mixture": pairs}
        readers = {pair.source.name: pair.source.reader for pair in stream.pairs}
        shards = {name: reader.fingerprint() for name, reader in readers.items() if isinstance(reader, ShardReader)}
        autoencoder = {"autoencoder": weights_hash(weights), "precision": self.config.model.autoencoder_precision}
        return drawn | {"shards": shards, "painting": PAINTING} | autoencoder

    def train_dataloader(self) -> DataLoader:
        """RuntimeError where encoded examples of other ranks are not to be seen."""
        assert self.trainer is not None
        files = self.stream.examples if isinstance(self.stream, LatentStream) else None
        if isinstance(files, LatentFiles) and (unseen := files.missing(0, 1)):
            raise RuntimeError(f"{len(unseen)} parts of {files.folder} are not to be seen here: do ranks share it?")
        rank, ranks = world()
        part = self.config.batch_size // self.config.accumulate
        start = self.trainer.global_step * self.config.accumulate
        # Always of the full length: on resume Lightning counts the batches before as already fetched.
        stop = start + self.config.steps * self.config.accumulate
        sampler = PositionSampler(part, start, stop, rank, ranks, self.config.nodes)
        workers = self.config.data.workers
        return DataLoader(
            self.stream,
            batch_sampler=sampler,
            collate_fn=DrawnCollate(self.stream.collate, self.drawing),
            num_workers=workers,
            worker_init_fn=_leave_signals,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None,
        )


GRACE_S = 300
"""Seconds that a loader lives on after SIGTERM."""


def check_batches(config: TrainConfig) -> None:
    """ValueError where a batch cannot be split evenly."""
    if config.batch_size % (config.accumulate * config.devices * config.nodes):
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of accumulate x devices x nodes "
            f"= {config.accumulate} x {config.devices} x {config.nodes}"
        )


def _leave_signals(worker: int) -> None:
    """A scheduler signals the whole group; the trainer decides when to stop, and its loaders end with it.

    One that a dead file system holds would never end: after its grace it is killed.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_S))


def open_cache(data: DataConfig) -> ShardCache:
    """Where copies of remote shards go."""
    return ShardCache(data.cache or None, int(data.cache_gb * 1e9) or None)


def open_sources(data: DataConfig) -> list[Source]:
    """Opens the shards of every source; a ValueError names what is missing."""
    if not data.sources:
        raise ValueError("data.sources is empty; give at least one source with its shards, weight and tasks")
    cache = open_cache(data)
    return [Source(c.name or c.shards, ShardReader(c.shards, cache), c.weight, dict(c.tasks)) for c in data.sources]


def open_stream(data: DataConfig, tasks: dict[str, Task], seed: int) -> Stream:
    """The training stream of a config."""
    if not data.size:
        raise ValueError("data.size is 0; it must be a positive multiple of 16")
    return Stream(open_sources(data), tasks, data.size, seed, build_augment(data.augment), data.max_corrupt)


def build_augment(config: AugmentConfig) -> Augment:
    """The augmentation of a config."""
    scale = (config.crop, 1.0) if config.crop < 1 else None
    return Augment(config.hflip, scale, photometric=config.photometric, turns=config.turns, windows=config.windows)


def open_held_out(data: DataConfig, tasks: dict[str, Task]) -> list[HeldOut]:
    """Held-out samples of every task that a validation source names; of two sources with one task, named by both."""
    held_out, cache = [], open_cache(data)
    served = Counter(task for config in data.validation for task in config.tasks)
    for config in data.validation:
        reader = ShardReader(config.shards, cache)
        for task in config.tasks:
            name = task if served[task] == 1 else f"{config.name or config.shards}/{task}"
            held_out.append(HeldOut(tasks[task], reader, data.validation_count, data.size, name=name))
            if not len(held_out[-1]):
                raise ValueError(f"data.validation: nothing in {config.shards} serves the task {task!r}")
    names = [one.name for one in held_out]
    if len(set(names)) < len(names):
        raise ValueError(f"data.validation: source names repeat: {', '.join(names)}")
    return held_out
