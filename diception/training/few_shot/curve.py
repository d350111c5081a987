"""The metric while an adapter learns, and stopping early where it gets no better."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from tqdm import tqdm

from diception.evaluation import Score
from diception.tables import strict
from diception.training.optim import EMA


@dataclass
class Point:
    """One measurement while training."""

    step: int
    metric: str
    value: float


class Curve(L.Callback):
    """Measures the averaged weights every so many steps; with patience, ends the run and keeps the best weights.

    Its state travels in the checkpoints, so that a resumed run stops where an undisturbed one does.
    """

    def __init__(self, measure: Callable[[], Score], every: int, patience: int, path: Path):
        """Prepares to measure.

        Args:
            measure: scores the model as it is.
            every: steps between two measurements; 0: none.
            patience: so many measurements in a row without a better one end the run; 0: it always takes all its steps.
            path: of the measurements, a JSON line each.
        """
        self.measure, self.every, self.patience, self.path = measure, every, patience, path
        self.points: list[Point] = []
        self.best: dict[str, Tensor] = {}
        self.best_value, self.idle = float("-inf"), 0

    @property
    def stopped(self) -> bool:
        """Whether it has lost patience."""
        return self.patience > 0 and self.idle >= self.patience

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.stopped  # resumed from where it had stopped

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, done = trainer.global_step, (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not self.every or not done or (step % self.every and step < trainer.max_steps):
            return
        ema = next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)  # type: ignore[attr-defined]
        trained = pl_module.trained()
        pl_module.eval()
        with ema.swapped(trained) if ema else torch.no_grad(), trainer.precision_plugin.forward_context():
            self._note(step, self.measure(), trained)
        pl_module.train()
        trainer.should_stop = trainer.should_stop or self.stopped

    def _note(self, step: int, score: Score, trained: dict[str, Tensor]) -> None:
        self.points.append(Point(step, score.primary, score.value))
        self.path.write_text("".join(json.dumps(strict(asdict(point))) + "\n" for point in self.points))
        tqdm.write(f"step {step}: {score.primary} {score.value:.3f}")
        value = score.value if score.higher_is_better else -score.value
        self.idle += 1
        if value > self.best_value:
            self.best_value, self.idle = value, 0
            if self.patience:
                self.best = {name: tensor.detach().cpu().clone() for name, tensor in trained.items()}

    @torch.no_grad()
    def keep_best(self, trained: dict[str, Tensor]) -> None:
        """Puts the best weights in place of the last, where there was patience to lose."""
        for name, tensor in self.best.items():
            trained[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        points = [asdict(point) for point in self.points]
        return {"points": points, "best": self.best, "best_value": self.best_value, "idle": self.idle}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [Point(**point) for point in state_dict["points"]]
        self.best, self.best_value, self.idle = (state_dict[name] for name in ("best", "best_value", "idle"))
