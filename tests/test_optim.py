"""The learning rate over the steps."""

from __future__ import annotations

import math

import pytest
import torch

from diception.config import OptimConfig
from diception.training.optim import build_schedule

STEPS = 110


def rates(config: OptimConfig, steps: int = STEPS) -> list[float]:
    """Of every step, as shares of the peak."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1)
    schedule, found = build_schedule(optimizer, config, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_a_cosine_is_held_at_the_peak_for_its_share_and_ends_at_a_hundredth() -> None:
    held = rates(OptimConfig(schedule="cosine", warmup=10, hold=0.6))
    assert held[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert held[10:71] == pytest.approx([1.0] * 61)  # six tenths of the hundred steps behind the warm-up
    assert held[71:] == sorted(held[71:], reverse=True) and held[71] < 1
    assert held[90] == pytest.approx(0.505) and held[-1] == pytest.approx(0.01, abs=2e-3)


def test_without_holding_it_is_the_cosine_and_held_to_the_end_constant() -> None:
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * n / 100)) / 2 for n in range(100)]
    assert rates(OptimConfig(schedule="cosine", warmup=10))[10:] == pytest.approx(cosine)
    constant = rates(OptimConfig(schedule="constant", warmup=10))
    assert rates(OptimConfig(schedule="cosine", warmup=10, hold=1)) == pytest.approx(constant)


def test_a_share_outside_of_all_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optim.hold is 1.5; it must be from 0 to 1"):
        OptimConfig(hold=1.5)
