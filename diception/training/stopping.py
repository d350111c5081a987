"""Stopping a run so that the same command goes on: after some time, or when a scheduler asks for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch

from diception.training.checkpoints import checkpoint_path, drop_oldest

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal came before the first step: nothing is in hand, and what was encoded is on disk."""


class Stop(L.Callback):
    """Stops with a checkpoint after so many minutes, or when SIGTERM or SIGUSR1 asks for it, as a scheduler does.

    The first of the callbacks: whatever the others do at the start may be stopped, too.
    """

    def __init__(self, minutes: float, folder: Path, kept: int):
        """`minutes` 0: no limit; a resumed run has the whole time again."""
        self.minutes, self.folder, self.kept, self.start = minutes, folder, kept, time.monotonic()
        self.asked = False
        """Whether a signal came, on any rank."""
        self.at_once = False
        """Whether it came before the first step."""
        self.trainer: L.Trainer | None = None
        """While nothing is lost by leaving at once."""

    @contextmanager
    def listening(self, trainer: L.Trainer) -> Iterator[None]:
        """Within the block signals stop the run; one that comes before the first step ends the block."""
        before = [signal.getsignal(number) for number in SIGNALS]
        self.trainer = trainer
        self._listen()
        try:
            yield
        except Stopped:
            self.at_once = True
        finally:
            for number, handler in zip(SIGNALS, before, strict=True):
                self._handle(number, handler)

    def _listen(self) -> None:
        for number in SIGNALS:
            self._handle(number, self._ask)

    @staticmethod
    def _handle(number: int, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        trainer, self.trainer = self.trainer, None
        if trainer is not None:
            if (launcher := trainer.strategy.launcher) is not None:
                launcher.kill(signal.Signals(number))  # the ranks that this process has started
            raise Stopped

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._listen()  # Lightning has put handlers of its own before these

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.trainer = None

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
