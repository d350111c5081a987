"""Checkpoints of a run: written whole or not at all; the newest; how many are kept."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import safe_open
from torch import Tensor

from diception.model.weights import write_tensors

log = logging.getLogger(__name__)

PARTIAL, DAMAGED = ".partial", ".damaged"
BEST = "diception_best"
"""The entry of the file's metadata: step and loss."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name first, so that a kill never leaves half a file under it.

    Lightning's own collects a checkpoint in memory and in a temporary folder first, and reads it as a whole on every
    rank: that of Stable Diffusion 3 has 32 GB.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """OSError, naming the file, where it cannot be written; nothing of it is left then."""
        partial = Path(f"{path}{PARTIAL}")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint, partial)
            _to_disk(partial)  # before it has its name
            os.replace(partial, path)
            _to_disk(partial.parent)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            partial.unlink(missing_ok=True)
            free = f"{shutil.disk_usage(partial.parent).free / 1e6:.0f} MB"
            raise OSError(f"{path} cannot be written ({free} are free), those before it are whole: {error}") from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Values are read from the file when they are used."""
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _to_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where a run folder keeps the checkpoint of a step."""
    return folder / "checkpoints" / f"step_{step:08d}.ckpt"


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of a run folder with the most steps; one that is cut off or not a checkpoint is passed over."""
    for path in sorted((folder / "checkpoints").glob("step_*.ckpt"), reverse=True):
        if zipfile.is_zipfile(path):
            return path
        log.warning("%s is damaged and passed over", path)
    return None


def best_path(folder: Path) -> Path:
    """Where a run folder keeps the averaged weights with the lowest validation loss; `export` reads them there."""
    return folder / "checkpoints" / "best.safetensors"


def best_loss(folder: Path) -> float:
    """The validation loss of the best weights so far; infinite where there are none."""
    if not best_path(folder).exists():
        return math.inf
    with safe_open(str(best_path(folder)), framework="pt") as file:
        return json.loads(file.metadata()[BEST])["loss"]


def write_best(folder: Path, weights: Mapping[str, Tensor], step: int, loss: float) -> None:
    """Keeps trained weights, by name, as the best; those before are replaced whole or not at all."""
    best_path(folder).parent.mkdir(parents=True, exist_ok=True)
    write_tensors(dict(weights), best_path(folder), {BEST: json.dumps({"step": step, "loss": loss})})


def drop_oldest(folder: Path, kept: int) -> None:
    """Removes all but the newest checkpoints of a run folder."""
    for path in sorted((folder / "checkpoints").glob("step_*.ckpt"))[: -max(1, kept)]:
        path.unlink()


def remove_partial(folder: Path) -> None:
    """Removes what a killed run has not written to its end. No other process may write there."""
    for path in (folder / "checkpoints").glob(f"*{PARTIAL}"):
        path.unlink()


def set_aside_damaged(folder: Path) -> None:
    """Renames checkpoints that cannot be read, so that they do not count among those that are kept."""
    for path in (folder / "checkpoints").glob("step_*.ckpt"):
        if not zipfile.is_zipfile(path):
            path.rename(f"{path}{DAMAGED}")


class NewestCheckpoints(ModelCheckpoint):
    """Writes a checkpoint every so many steps and after the last, and keeps the newest.

    So a finished run is not trained again by the same command. Lightning's own never drops the one that a run went on
    from; here it goes when it is old, as all others.
    """

    def __init__(self, folder: Path, every: int, kept: int) -> None:
        """`folder`: of the run."""
        super().__init__(
            folder / "checkpoints",
            filename="step_{step:08d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every,
            save_top_k=kept,
            monitor="step",
            mode="max",
            save_on_train_epoch_end=False,
        )
        self.folder, self.every, self.kept = folder, every, kept

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step  # what it goes on from is on disk

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # in the middle of a step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        step = trainer.global_step
        due, last = step % self.every == 0, step == trainer.max_steps
        if last and not due:
            trainer.save_checkpoint(checkpoint_path(self.folder, step))
        if trainer.is_global_zero and (due or last):
            drop_oldest(self.folder, self.kept)
