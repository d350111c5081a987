"""The sampler: the schedule of Stable Diffusion 3, and Euler steps that follow a straight path exactly."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diception.sampler import guide, sample_euler, sigma_schedule


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 14, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_schedule_equals_the_reference_scheduler(steps: int, shift: float) -> None:
    reference = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    reference.set_timesteps(steps)
    torch.testing.assert_close(sigma_schedule(steps, shift), reference.sigmas, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("steps", range(1, 29))
def test_schedule_starts_at_one_and_ends_at_zero(steps: int) -> None:
    sigmas = sigma_schedule(steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_published_timesteps() -> None:
    expected = torch.tensor([1000, 857.69, 602.15, 8.93])
    torch.testing.assert_close(1000 * sigma_schedule(4)[:-1], expected, atol=0.01, rtol=0)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        sigma_schedule(0)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_straight_path_is_followed_exactly(steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 2, 16, 4, 4, generator=generator)
    result = sample_euler(lambda latents, sigma: noise - data, noise, sigma_schedule(steps))
    torch.testing.assert_close(result, data)


def test_euler_converges_to_the_solution_of_a_curved_path() -> None:
    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    errors = []
    for steps in (20, 40):
        result = sample_euler(lambda latents, sigma: latents, start, sigma_schedule(steps, shift=1.0).double())
        errors.append(abs(float(result) - float(torch.exp(torch.tensor(-1.0)))))
    assert errors[1] < 0.6 * errors[0] < 0.02


def test_guidance_scale_one_is_conditional() -> None:
    unconditional, conditional = torch.randn(2, 1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guide(unconditional, conditional, 1.0), conditional)
    torch.testing.assert_close(guide(unconditional, conditional, 0.0), unconditional)
