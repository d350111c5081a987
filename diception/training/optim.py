"""Optimizer, learning-rate schedule, and the moving average of the trained weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diception.config import OptimConfig
from diception.model.memory import bitsandbytes
from diception.training.sharding import gather, spread_like

SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw", "adamw8bit")


def build_optimizer(parameters: Iterable[Tensor], config: OptimConfig, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW, fused into one kernel where asked, or with moments in 8 bits; vectors (biases, norms) are not decayed.

    Raises:
        ValueError: unknown optimizer, or bitsandbytes is not installed.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(f"optim.name is {config.name!r}; allowed: {', '.join(OPTIMIZERS)}")
    matrices, vectors = [], []
    for parameter in parameters:
        (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    if config.name == "adamw8bit":
        return bitsandbytes().optim.AdamW8bit(filled, lr=config.lr, betas=config.betas)
    return torch.optim.AdamW(filled, lr=config.lr, betas=config.betas, fused=fused or None)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up; then constant, or held for a share of the rest before a cosine to a hundredth at the last step.

    Raises:
        ValueError: unknown schedule.
    """
    check_schedule(config.schedule)
    fall = config.warmup + config.hold * (steps - config.warmup)

    def factor(step: int) -> float:
        ramp = min(1.0, (step + 1) / max(1, config.warmup))
        if config.schedule == "constant":
            return ramp
        progress = min(1.0, max(0, step - fall) / max(1, steps - fall))
        return ramp * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def check_schedule(schedule: str) -> None:
    """ValueError unless it is one of SCHEDULES."""
    if schedule not in SCHEDULES:
        raise ValueError(f"optim.schedule is {schedule!r}; allowed: {', '.join(SCHEDULES)}")


class EMA(L.Callback):
    """Moving average of the trained parameters in float32, saved with every checkpoint.

    The decay ramps up as (1 + n) / (10 + n), so that a short run is not held back by its first weights.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.updates = 0
        self.average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        own = pl_module.trained()
        if not self.average:
            self.average = {name: p.detach().float().clone() for name, p in own.items()}
        for name, value in self.average.items():  # one after the other: a device may hold a piece of each alone
            self.average[name] = spread_like(value.to(pl_module.device, copy=True), own[name])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > self.updates:
            self._update(pl_module.trained(), trainer.global_step)

    @contextmanager
    def swapped(self, parameters: dict[str, Tensor]) -> Iterator[None]:
        """Within the block the parameters hold their averages, and the averages the parameters: no third copy."""
        self._swap(parameters)
        try:
            yield
        finally:
            self._swap(parameters)

    @torch.no_grad()
    def _swap(self, parameters: dict[str, Tensor]) -> None:
        for name, parameter in parameters.items():
            own = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": gather(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.average = state_dict["updates"], state_dict["average"]

    @torch.no_grad()
    def _update(self, parameters: dict[str, Tensor], step: int) -> None:
        self.updates = step
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [parameters[name].detach().float() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - decay)  # type: ignore[attr-defined]
