"""Validation while training: metrics of every task, losses at fixed sigmas, a panel, and the best weights so far."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from diception.config import SamplingConfig
from diception.datasets.sample import collate
from diception.evaluation import HeldOut, Score, evaluate
from diception.panel import Row, predict_rows, save_panel
from diception.training.checkpoints import best_loss, write_best
from diception.training.optim import EMA
from diception.training.sharding import gather

LOSS_SAMPLES = 8
"""Of each task, for the losses at fixed sigmas."""


class Validation(L.Callback):
    """Before the first step, every so many, and after the last: always of the averaged weights, on fixed samples.

    All ranks run the model on everything but the metrics' samples, which they share: pieces of a model want the same
    calls on all of them.
    """

    def __init__(
        self,
        held_out: Sequence[HeldOut],
        sampling: SamplingConfig,
        every: int,
        folder: Path,
        ema: EMA | None,
        batch_size: int = 16,
    ):
        """`batch_size`: samples that a device predicts at once."""
        self.held_out, self.sampling, self.every, self.folder, self.ema = held_out, sampling, every, folder, ema
        self.batch_size = batch_size

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.every and trainer.global_step == 0:
            self.run(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = trainer.global_step >= trainer.max_steps
        due = self.every and trainer.global_step % self.every == 0
        if (due or last) and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.run(trainer, pl_module)

    def run(self, trainer: L.Trainer, pl_module: Any) -> list[Score]:
        """Evaluates now; rank 0 appends to `validation.jsonl`, draws `panels/<step>.png` and keeps the best weights."""
        if not self.held_out:
            return []
        for optimizer in trainer.optimizers:
            optimizer.zero_grad()  # room for the pictures
        with self._averaged(pl_module), trainer.precision_plugin.forward_context():
            scores = [evaluate(pl_module.model, one, self.sampling, self.batch_size) for one in self.held_out]
            losses = {one.name: _fixed_losses(pl_module, one, self.batch_size) for one in self.held_out}
            rows = [row for one in self.held_out for row in predict_rows(pl_module.model, one, self.sampling, 1)]
            weights = gather(pl_module.trained())
            self._report(trainer, scores, losses, rows, weights)
        return scores

    @contextmanager
    def _averaged(self, pl_module: Any) -> Iterator[None]:
        pl_module.eval()
        with self.ema.swapped(pl_module.trained()) if self.ema else torch.no_grad():
            yield
        pl_module.train()

    @rank_zero_only
    def _report(
        self, trainer: L.Trainer, scores: list[Score], losses: dict[str, Any], rows: list[Row], weights: dict[str, Any]
    ) -> None:
        step = trainer.global_step
        named = dict(zip(losses, scores, strict=True))
        metrics = {f"val/{name}/{metric}": value for name, s in named.items() for metric, value in s.metrics.items()}
        metrics |= {f"val_loss/{t}/sigma_{s:g}": value for t, found in losses.items() for s, value in found.items()}
        mean = metrics["val_loss"] = fmean(fmean(found.values()) for found in losses.values())
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        with (self.folder / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "scores": [s.as_dict() for s in scores], "losses": losses}) + "\n")
        tqdm.write(f"step {step}: " + ", ".join(f"{t} {s.primary} {s.value:.3f}" for t, s in named.items()))
        save_panel(rows, self.folder / "panels" / f"{step:08d}.png")
        if mean < best_loss(self.folder):
            write_best(self.folder, weights, step, mean)


def _fixed_losses(pl_module: Any, held_out: HeldOut, batch_size: int) -> dict[float, float]:
    """Means over the first samples, so many at a time."""
    samples, sums = iter(islice(held_out, LOSS_SAMPLES)), Counter()
    while part := list(islice(samples, batch_size)):
        for sigma, loss in pl_module.fixed_losses(collate(part).to(pl_module.device)).items():
            sums[sigma] += loss * len(part)
    return {sigma: total / min(LOSS_SAMPLES, len(held_out)) for sigma, total in sums.items()}
