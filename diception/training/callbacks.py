"""Callbacks: progress and what is watched while training."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from tqdm import tqdm

from diception.config import TrainConfig
from diception.training.flops import peak_flops, training_flops


class SameStep(L.Callback):
    """The first of the callbacks: what the others do at the start needs all ranks to be at the same step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """RuntimeError, on all ranks, where they go on from different checkpoints: a file system that lags shows it."""
        step = trainer.global_step
        steps = torch.tensor([step, -step], dtype=torch.float64, device=pl_module.device)
        last, first = (int(value) for value in trainer.strategy.reduce(steps, reduce_op="max").tolist())
        if last != -first:
            raise RuntimeError(f"the ranks go on from steps {-first} to {last}: not all see the same folder")


class Watch(L.Callback):
    """A bar over the optimizer steps, and lines of the logs: losses, speed, waiting for data, gradient, memory."""

    def __init__(self, config: TrainConfig):
        self.config, self.flops = config, 0.0
        """And operations of a sample."""
        self.peak: float | None = None
        """Operations a second that all devices together could do, if known."""
        self.bar: tqdm | None = None
        self.clock, self.step = 0.0, 0
        self.waited, self.ended = 0.0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.clock, self.step = time.perf_counter(), trainer.global_step
        self.waited, self.ended = 0.0, self.clock
        self.flops = training_flops(pl_module.model, self.config.data.size)
        peak = peak_flops(pl_module.device, self.config.precision)
        self.peak = None if peak is None else peak * trainer.world_size
        if trainer.is_global_zero:
            self.bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, unit="step", desc="train", mininterval=2
            )

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ended = time.perf_counter()
        # At the same steps whenever the run was started, or a resumed one would log other means.
        if trainer.global_step == self.step or trainer.global_step % self.config.log_every:
            return
        losses = pl_module.logged()  # waits for the device, so that the clock is right
        self.ended = time.perf_counter()
        speed = self._speed(pl_module, trainer.global_step - self.step)
        other = {"grad_norm": pl_module.grad_norm, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        for logger in trainer.loggers:
            logger.log_metrics(losses | speed | other, step=trainer.global_step)
        self.clock, self.step, self.waited = self.ended, trainer.global_step, 0.0
        if self.bar is not None:
            shown = {"loss": f"{losses['loss']:.4f}", "samples_per_s": f"{speed['samples_per_s']:.3g}"}
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def _speed(self, pl_module: Any, steps: int) -> dict[str, float]:
        elapsed = self.ended - self.clock
        rate = steps * self.config.batch_size / elapsed
        values = {"samples_per_s": rate, "tflops": rate * self.flops / 1e12, "data_wait": self.waited / elapsed}
        if self.peak is not None:
            values["peak_share"] = rate * self.flops / self.peak
        if pl_module.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        return values

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
            self.bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()
