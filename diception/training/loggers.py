"""Where the lines of the logs go."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from diception.config import TrainConfig

LOGGERS = ("csv", "tensorboard", "wandb")


def build_loggers(config: TrainConfig, start: str) -> list[Logger]:
    """Loggers of a run; `start` names the file of this start, so that a resumed run adds one.

    Raises:
        ValueError: unknown name, or W&B is asked for and not installed.
    """
    for name in config.loggers:
        if name not in LOGGERS:
            raise ValueError(f"loggers has {name!r}; allowed: {', '.join(LOGGERS)}")
    return [_build(name, config, start) for name in config.loggers]


def _build(name: str, config: TrainConfig, start: str) -> Logger:
    folder = Path(config.run)
    if name == "csv":
        return CSVLogger(folder, "logs", version=start, flush_logs_every_n_steps=1)
    if name == "tensorboard":
        return TensorBoardLogger(folder, "tensorboard", version="")
    if importlib.util.find_spec("wandb") is None:
        raise ValueError("loggers has 'wandb', which is not installed: pip install wandb")
    # The same id continues the same curves; folders of one name elsewhere are other runs.
    place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    options = {"resume": "allow", "config": dataclasses.asdict(config)}
    return WandbLogger(folder.name, str(folder), id=f"{folder.name}-{place}", project="diception", **options)
