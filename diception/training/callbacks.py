"""Callbacks: progress with samples per second, and validation that runs `generate` and draws a panel."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from diception.config import SamplingConfig
from diception.datasets.sample import collate
from diception.evaluation import HeldOut, Score, evaluate
from diception.panel import predict_rows, save_panel
from diception.training.checkpoints import checkpoint_path, drop_oldest
from diception.training.optim import EMA

LOSS_SAMPLES = 8
"""Of each task, for the losses at fixed sigmas."""


class Progress(L.Callback):
    """A bar over the optimizer steps; throughput, the share of time spent waiting for data, and memory in the logs."""

    def __init__(self, batch_size: int, log_every: int):
        self.batch_size, self.log_every = batch_size, log_every
        self.bar: tqdm | None = None
        self.clock, self.step = 0.0, 0
        self.waited, self.ended = 0.0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.clock, self.step = time.perf_counter(), trainer.global_step
        self.waited, self.ended = 0.0, self.clock
        if trainer.is_global_zero:
            self.bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, unit="step", desc="train", mininterval=2
            )

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ended = time.perf_counter()
        done = trainer.global_step - self.step
        if done < self.log_every:
            return
        elapsed = self.ended - self.clock
        rate = done * self.batch_size / elapsed
        values = {"samples_per_s": rate, "data_wait": self.waited / elapsed}
        if pl_module.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        self.clock, self.step, self.waited = self.ended, trainer.global_step, 0.0
        pl_module.log_dict(values | {"lr": trainer.optimizers[0].param_groups[0]["lr"]})
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{float(outputs['loss']):.4f}", samples_per_s=f"{rate:.0f}", refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
            self.bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.close()


class Stop(L.Callback):
    """Stops with a checkpoint after so many minutes, or when SIGTERM or SIGUSR1 asks for it, as a scheduler does."""

    def __init__(self, minutes: float, folder: Path, kept: int):
        """`minutes` 0: no limit; a resumed run has the whole time again."""
        self.minutes, self.folder, self.kept, self.start = minutes, folder, kept, time.monotonic()
        self.asked = False
        """Whether a signal came, on any rank."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            over = self.minutes > 0 and time.monotonic() - self.start > 60 * self.minutes
            # All ranks stop after the same step, or some would wait for the others in the next.
            flags = torch.tensor([self.asked, over], dtype=torch.float32, device=pl_module.device)
            asked, over = trainer.strategy.reduce(flags, reduce_op="sum").tolist()
            self.asked = asked > 0
            trainer.should_stop = trainer.should_stop or self.asked or over > 0

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step < trainer.max_steps:
            trainer.save_checkpoint(checkpoint_path(self.folder, trainer.global_step))
            if trainer.is_global_zero:
                drop_oldest(self.folder, self.kept)


class Validation(L.Callback):
    """Every so many steps, and after the last: metrics of every task on fixed samples, and a panel, with the EMA."""

    def __init__(
        self, held_out: Sequence[HeldOut], sampling: SamplingConfig, every: int, folder: Path, ema: EMA | None
    ):
        self.held_out, self.sampling, self.every, self.folder, self.ema = held_out, sampling, every, folder, ema

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = trainer.global_step >= trainer.max_steps
        due = self.every and trainer.global_step % self.every == 0
        if (due or last) and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.run(trainer, pl_module)

    def run(self, trainer: L.Trainer, pl_module: Any) -> list[Score]:
        """Evaluates now; rank 0 appends the scores to `validation.jsonl` and draws `panels/<step>.png`."""
        if not self.held_out:
            return []
        pl_module.eval()
        swapped = self.ema.swapped(pl_module.trained()) if self.ema else torch.no_grad()
        with swapped:
            scores = [evaluate(pl_module.model, held_out, self.sampling) for held_out in self.held_out]
            losses = {held_out.task.name: _fixed_losses(pl_module, held_out) for held_out in self.held_out}
            self._report(trainer, pl_module, scores, losses)
        pl_module.train()
        return scores

    @rank_zero_only
    def _report(self, trainer: L.Trainer, pl_module: Any, scores: list[Score], losses: dict[str, Any]) -> None:
        step = trainer.global_step
        metrics = {f"val/{s.task}/{name}": value for s in scores for name, value in s.metrics.items()}
        metrics |= {f"val_loss/{t}/sigma_{s:g}": value for t, found in losses.items() for s, value in found.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        with (self.folder / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "scores": [s.as_dict() for s in scores], "losses": losses}) + "\n")
        tqdm.write(f"step {step}: " + ", ".join(f"{s.task} {s.primary} {s.value:.3f}" for s in scores))
        rows = [row for held_out in self.held_out for row in predict_rows(pl_module.model, held_out, self.sampling, 1)]
        save_panel(rows, self.folder / "panels" / f"{step:08d}.png")


def _fixed_losses(pl_module: Any, held_out: HeldOut) -> dict[float, float]:
    batch = collate(list(islice(held_out, LOSS_SAMPLES)))
    return pl_module.fixed_losses(batch.to(pl_module.device))
