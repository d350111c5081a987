"""Runs for the tests: how they are started, stopped and compared."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors.torch import load_file

from diception.config import TrainConfig, save_config
from diception.model.checkpoint import load_model
from diception.training.checkpoints import newest_checkpoint
from diception.training.run import train

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(config: TrainConfig) -> list[str]:
    """Starts a run in processes of its own; its config is written beside its folder."""
    yaml = Path(f"{config.run}.yaml")
    save_config(config, yaml)
    return [sys.executable, str(ROOT / "train" / "multitask.py"), str(yaml)]


def in_processes(config: TrainConfig) -> Path:
    """Runs a config in as many processes as it has devices, to its end."""
    ended = subprocess.run(command(config), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return Path(config.run)


def losses(folder: Path) -> dict[int, float]:
    """The logged loss of every step, of whichever start came last to it."""
    found: dict[int, float] = {}
    for path in sorted((folder / "logs").glob("*/metrics.csv")):
        with path.open() as file:
            found |= {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}
    return found


def checkpoint(folder: Path) -> dict[str, Any]:
    path = newest_checkpoint(folder)
    assert path is not None
    return torch.load(path, weights_only=True, map_location="cpu")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{p.parent.name}.{k}": v for p in folder.rglob("*.safetensors") for k, v in load_file(p).items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def assert_close_to_the_step(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Two runs from `tiny` ended in one place, measured by how far they went.

    Adam turns the rounding of a gradient near zero into a step; other data or another mean would be far away.
    """
    start = {f"transformer.{name}": tensor for name, tensor in load_model("tiny").transformer.state_dict().items()}
    assert one.keys() == other.keys()
    distance = sum(float((one[name] - tensor).square().sum()) for name, tensor in start.items())
    apart = sum(float((one[name] - other[name]).square().sum()) for name in start)
    assert distance > 0
    assert apart < 1e-3 * distance


def train_until(config: TrainConfig, steps: int) -> Path:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step >= steps:
                trainer.should_stop = True

    return train(config, [Stop()])
