"""Where the lines of the logs go."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

LOGGERS = ("csv", "tensorboard", "wandb")


def build_loggers(names: Sequence[str], folder: Path, start: str) -> list[Logger]:
    """Loggers of a run folder; `start` names the file of this start, so that a resumed run adds one.

    Raises:
        ValueError: unknown name, or W&B is asked for and not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"loggers has {name!r}; allowed: {', '.join(LOGGERS)}")
    return [_build(name, folder, start) for name in names]


def _build(name: str, folder: Path, start: str) -> Logger:
    if name == "csv":
        return CSVLogger(folder, "logs", version=start, flush_logs_every_n_steps=1)
    if name == "tensorboard":
        return TensorBoardLogger(folder, "tensorboard", version="")
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("loggers has 'wandb', which is not installed: pip install wandb")
    # The same id continues the same curves.
    return WandbLogger(folder.name, str(folder), id=folder.name, project="diception", resume="allow")
