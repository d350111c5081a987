"""The guard: usual gradients are clipped, bad ones leave weights and moments alone, and too many end the run."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.nn import Parameter

from diception.config import TrainConfig
from diception.training.guard import USUAL, Guard
from diception.training.run import train


def parameters(norm: float) -> list[Parameter]:
    """Two parameters whose gradients together have this norm."""
    made = [Parameter(torch.ones(3)), Parameter(torch.ones(4, 2))]
    for parameter in made:
        parameter.grad = torch.full_like(parameter, norm / math.sqrt(11))
    return made


def gradient(made: list[Parameter]) -> torch.Tensor | None:
    grads = [parameter.grad for parameter in made]
    return None if any(g is None for g in grads) else torch.cat([g.ravel() for g in grads if g is not None])


def test_usual_gradients_are_clipped_as_torch_does() -> None:
    for norm in (0.5, 3.0):
        made, other = parameters(norm), parameters(norm)
        assert Guard(1.0, 10, 3)(made, 0, []) == pytest.approx(norm)
        torch.nn.utils.clip_grad_norm_(other, 1.0)
        found, wanted = gradient(made), gradient(other)
        assert found is not None and wanted is not None and torch.equal(found, wanted)
    made = parameters(3.0)
    Guard(0, 10, 3)(made, 0, [])
    found = gradient(made)
    assert found is not None and float(found.norm()) == pytest.approx(3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 25.0])
def test_a_bad_step_leaves_weights_and_moments_as_they_are(bad: float, caplog: pytest.LogCaptureFixture) -> None:
    guard, made = Guard(1.0, 20, 3), parameters(1.0)
    optimizer = torch.optim.AdamW(made, lr=0.1, weight_decay=0.1)
    for step in range(USUAL):
        assert guard(parameters(1.0), step, []) == pytest.approx(1.0)
    optimizer.step()
    before = [p.detach().clone() for p in made]
    moments = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in made]
    for parameter in made:
        parameter.grad = torch.full_like(parameter, bad / math.sqrt(11))
    guard(made, USUAL, ["a/7", "b/9"])
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(made, before, strict=True))
    for parameter, kept in zip(made, moments, strict=True):
        assert all(torch.equal(optimizer.state[parameter][k], v) for k, v in kept.items())
    assert "a/7, b/9" in caplog.text and guard.skipped == [USUAL] and len(guard.norms) == USUAL


def test_too_many_bad_steps_end_the_run_and_old_ones_are_forgotten() -> None:
    guard = Guard(1.0, 20, 3)
    guard(parameters(math.nan), 5, [])
    guard(parameters(math.nan), 900, [])
    guard(parameters(math.nan), 1500, ["x"])  # the first is more than a thousand steps ago
    with pytest.raises(
        FloatingPointError, match="3 of the last 1000 steps were skipped, the last at step 1600 .* samples y"
    ):
        guard(parameters(math.nan), 1600, ["y"])


def test_a_restored_guard_decides_the_same() -> None:
    guard, other = Guard(1.0, 5, 9), Guard(1.0, 5, 9)
    for step in range(USUAL + 3):
        guard(parameters(1 + step % 7), step, [])
    other.load(guard.state())
    for value in (8.0, 30.0, math.nan):
        one, two = parameters(value), parameters(value)
        guard(one, 200, [])
        other(two, 200, [])
        assert (gradient(one) is None) == (gradient(two) is None)
    assert guard.state() == other.state()


def test_a_run_with_a_bad_batch_goes_on_without_it(train_config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    class Spoil(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
            if trainer.global_step == 2:
                next(p for p in pl_module.trained().values() if p.grad is not None).grad.fill_(math.nan)

    with caplog.at_level(logging.WARNING):
        path = train(train_config, [Spoil()])
    assert path is not None and "step 2 is skipped: gradient norm nan; samples: synthetic1-0-" in caplog.text
    losses = Path(train_config.run, "logs", "step_00000000", "metrics.csv").read_text()
    assert "grad_norm" in losses
    from safetensors.torch import load_file

    weights = load_file(next(path.rglob("transformer/*.safetensors")))
    assert all(torch.isfinite(value).all() for value in weights.values())
    with pytest.raises(FloatingPointError, match="steps were skipped"):
        train(
            replace(train_config, run=f"{train_config.run}-2", optim=replace(train_config.optim, max_skipped=1)),
            [Spoil()],
        )
