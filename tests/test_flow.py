"""Flow matching: the path, its derivative, the loss, and draws keyed on samples."""

from __future__ import annotations

import pytest
import torch
from small import generator

from diception.flow import (
    Density,
    add_noise,
    draw,
    flow_matching_loss,
    latent_weight,
    loss_weight,
    seeded_noise,
    velocity_target,
)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator_, shape = generator(), (4, 16, 6, 5)
    return torch.randn(shape, generator=generator_), torch.randn(shape, generator=generator_)


def test_path_runs_from_data_to_noise() -> None:
    latents, noise = pair()
    assert torch.equal(add_noise(latents, noise, torch.zeros(4)), latents)
    assert torch.equal(add_noise(latents, noise, torch.ones(4)), noise)


def test_velocity_is_the_derivative_of_the_path() -> None:
    latents, noise = (t.double() for t in pair())
    step = 1e-3
    sigmas = torch.full((4,), 0.4, dtype=torch.float64)
    numeric = (add_noise(latents, noise, sigmas + step) - add_noise(latents, noise, sigmas - step)) / (2 * step)
    torch.testing.assert_close(numeric, velocity_target(latents, noise))


def test_loss_is_zero_at_the_target_and_counts_only_weighted_cells() -> None:
    latents, noise = pair()
    target = velocity_target(latents, noise)
    assert torch.equal(flow_matching_loss(target, target), torch.zeros(4))
    weight = torch.zeros(4, 1, 6, 5)
    weight[:, :, 2:4] = 1
    wrong = target.clone()
    wrong[:, :, 4:] += 7
    assert torch.equal(flow_matching_loss(wrong, target, weight), torch.zeros(4))
    wrong[:, :, 2:4] += 2
    torch.testing.assert_close(flow_matching_loss(wrong, target, weight), torch.full((4,), 4.0))
    assert torch.equal(flow_matching_loss(wrong, target, torch.zeros_like(weight)), torch.zeros(4))


def test_one_invalid_pixel_switches_its_cell_off() -> None:
    valid = torch.ones(1, 1, 16, 24)
    valid[0, 0, 9, 17] = 0
    weight = latent_weight(valid, 8)
    assert weight.shape == (1, 1, 2, 3)
    assert weight[0, 0, 1, 2] == 0
    assert weight.sum() == 5
    assert latent_weight(torch.where(valid.bool(), 1.0, 0.25), 8)[0, 0, 1, 2] == 0.25


def test_draws_depend_on_the_sample_alone() -> None:
    seeds = torch.tensor([5, 7, 2**62 + 3])
    together = draw(seeds, (16, 4, 4), prompt_dropout=0.5)
    alone = draw(seeds[1:2], (16, 4, 4), prompt_dropout=0.5)
    assert torch.equal(together.noise[1:2], alone.noise)
    assert torch.equal(together.sigmas[1:2], alone.sigmas)
    assert torch.equal(together.drop_prompt[1:2], alone.drop_prompt)
    assert torch.equal(seeded_noise(seeds, (16, 4, 4)), together.noise)


def test_density_of_sigma() -> None:
    seeds = torch.arange(4000)
    sigmas = draw(seeds, (1,), Density("logit_normal", mean=0.0, std=1.0)).sigmas
    logits = torch.logit(sigmas.double())
    assert abs(logits.mean()) < 0.06
    assert abs(logits.std() - 1) < 0.05
    shared = draw(seeds, (1,), Density(share_at_one=0.35), prompt_dropout=0.1)
    assert abs((shared.sigmas == 1).double().mean() - 0.35) < 0.03
    assert abs(shared.drop_prompt.double().mean() - 0.1) < 0.02
    uniform = draw(seeds, (1,), Density("uniform")).sigmas
    assert uniform.min() > 0 and uniform.max() <= 1
    assert abs(uniform.mean() - 0.5) < 0.02


def test_mode_and_cosmap_have_the_densities_of_their_paper() -> None:
    seeds = torch.arange(4000)
    middle = draw(seeds, (1,), Density("mode", mode_scale=1.29)).sigmas
    ends = draw(seeds, (1,), Density("mode", mode_scale=-0.9)).sigmas
    assert torch.allclose(
        draw(seeds, (1,), Density("mode", mode_scale=0.0)).sigmas, draw(seeds, (1,), Density("uniform")).sigmas
    )
    inner = [((s > 0.25) & (s < 0.75)).double().mean() for s in (middle, ends)]
    assert inner[0] > 0.6 and inner[1] < 0.4
    # Sampling from cosmap's density equals weighting uniform draws by it: so for every band.
    sampled = torch.histc(draw(seeds, (1,), Density("cosmap")).sigmas, 5, 0, 1) / len(seeds)
    grid = torch.linspace(0, 1, 100_001).double()
    weights = loss_weight(grid, "cosmap").reshape(-1)
    expected = torch.stack([weights[i : i + 20_000].mean() / 5 for i in range(0, 100_000, 20_000)])
    assert abs(expected.sum() - 1) < 1e-3
    torch.testing.assert_close(sampled.double(), expected, atol=0.025, rtol=0)


def test_clean_weighting_is_the_error_of_the_implied_latents() -> None:
    latents, noise, velocity = (torch.randn(3, 16, 4, 4, generator=generator(seed)) for seed in range(3))
    sigmas = torch.tensor([0.1, 0.5, 1.0])
    implied = add_noise(latents, noise, sigmas) - sigmas.reshape(-1, 1, 1, 1) * velocity
    loss = flow_matching_loss(velocity, velocity_target(latents, noise)) * loss_weight(sigmas, "clean")
    torch.testing.assert_close(loss, (implied - latents).square().mean(dim=(1, 2, 3)))


def test_unknown_density_and_weighting_are_named() -> None:
    with pytest.raises(ValueError, match="density is 'normal'; allowed: logit_normal, uniform, mode, cosmap"):
        Density("normal")
    for scale in (-1.5, 2):
        with pytest.raises(ValueError, match=f"mode_scale is {scale}; allowed is -1 to 1.75"):
            Density("mode", mode_scale=scale)
    with pytest.raises(ValueError, match="weighting is 'snr'; allowed: none, cosmap, clean"):
        loss_weight(torch.ones(1), "snr")
