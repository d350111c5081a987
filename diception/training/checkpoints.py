"""Checkpoints of a run: written whole or not at all; the newest; how many are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

PARTIAL = ".partial"


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name first, so that a kill never leaves half a file under it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        partial = Path(f"{path}{PARTIAL}")
        super().save_checkpoint(checkpoint, partial, storage_options)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # on disk before it has its name
        os.replace(partial, path)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where a run folder keeps the checkpoint of a step."""
    return folder / "checkpoints" / f"step_{step:08d}.ckpt"


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of a run folder with the most steps."""
    found = sorted((folder / "checkpoints").glob("step_*.ckpt"))
    return found[-1] if found else None


def drop_oldest(folder: Path, kept: int) -> None:
    """Removes all but the newest checkpoints of a run folder."""
    for path in sorted((folder / "checkpoints").glob("step_*.ckpt"))[: -max(1, kept)]:
        path.unlink()


def keep_checkpoints(folder: Path, every: int, kept: int) -> ModelCheckpoint:
    """The callback that writes one every so many steps and keeps the newest ones."""
    return ModelCheckpoint(
        folder / "checkpoints",
        filename="step_{step:08d}",
        auto_insert_metric_name=False,
        every_n_train_steps=every,
        save_top_k=kept,
        monitor="step",
        mode="max",
        save_on_train_epoch_end=False,
    )
