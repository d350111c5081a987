"""Steps that would harm the weights: a gradient that is not finite, or far larger than usual, is not taken."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

import torch
from torch import Tensor

from diception.training.sharding import whole

log = logging.getLogger(__name__)

USUAL = 100
"""Norms that the median is of; before there are as many, only what is not finite is skipped."""
RECENT = 1000
"""Steps among which skipped ones are counted."""


class Guard:
    """Clips gradients and skips steps; its state belongs into checkpoints, so that a resumed run decides the same."""

    def __init__(self, clip: float, spike: float, max_skipped: int) -> None:
        self.clip, self.spike, self.max_skipped = clip, spike, max_skipped
        self.norms: deque[float] = deque(maxlen=USUAL)
        self.skipped: list[int] = []
        """Recent steps that were not taken."""

    def __call__(self, parameters: Iterable[Tensor], step: int, keys: Sequence[str]) -> float:
        """The gradient norm, after clipping the gradients in place or, to skip the step, dropping them.

        Args:
            parameters: what the optimizer is about to change; the norm is the same on all ranks.
            step: number of the optimizer step.
            keys: samples of the batch on this rank, for the log.

        Raises:
            FloatingPointError: too many of the recent steps were skipped.
        """
        own = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        value = float(norm)
        if math.isfinite(value) and not self._spikes(value):
            self.norms.append(value)
            if self.clip:
                torch.nn.utils.clip_grads_with_norm_(own, self.clip, norm)
            return value
        for parameter in own:  # an optimizer leaves a parameter without a gradient as it is, and its moments too
            parameter.grad = None
        self._count(step, value, keys)
        return value

    def state(self) -> dict[str, list]:
        """What a checkpoint keeps."""
        return {"norms": list(self.norms), "skipped": list(self.skipped)}

    def load(self, state: dict[str, list]) -> None:
        """Goes on from what `state` gave."""
        self.norms = deque(state["norms"], maxlen=USUAL)
        self.skipped = list(state["skipped"])

    def _spikes(self, norm: float) -> bool:
        return self.spike > 0 and len(self.norms) == USUAL and norm > self.spike * median(self.norms)

    def _count(self, step: int, norm: float, keys: Sequence[str]) -> None:
        self.skipped = [old for old in self.skipped if old > step - RECENT] + [step]
        log.warning("step %d is skipped: gradient norm %g; samples: %s", step, norm, ", ".join(keys))
        if len(self.skipped) >= self.max_skipped:
            raise FloatingPointError(
                f"{len(self.skipped)} of the last {RECENT} steps were skipped, the last at step {step} with gradient "
                f"norm {norm:g} and samples {', '.join(keys)}; lower optim.lr, or look at these samples"
            )
