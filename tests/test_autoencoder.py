"""The autoencoders: one convention for all kinds, and what the patch autoencoder promises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from golden.weights import build_vae
from safetensors.torch import load_file
from small import generator, pictures, small_vae
from torch import Tensor

from diception.config import AutoencoderConfig, DataConfig, SourceConfig
from diception.datasets.synthetic.leaves import leaf_pictures
from diception.model.autoencoder import Autoencoder, PatchAutoencoder, load_autoencoder
from diception.model.weights import save_module
from diception.training import autoencoder as training
from diception.training.autoencoder import train_autoencoder


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(-10 * (found - expected).square().mean().log10())


@torch.no_grad()
def test_kl_takes_the_mode_and_normalises_as_sd3_does() -> None:
    vae = build_vae(0)
    autoencoder, rgb = Autoencoder(vae), pictures(2)
    mean = vae.encode(2 * rgb - 1).latent_dist.mean  # type: ignore[union-attr]
    latents = autoencoder.encode(rgb)
    torch.testing.assert_close(latents, (mean - 0.0609) * 1.5305)
    assert torch.equal(autoencoder.encode(rgb), latents)
    decoded = vae.decode(mean).sample  # type: ignore[union-attr]
    torch.testing.assert_close(autoencoder.decode(latents), (decoded / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-5)
    assert (autoencoder.factor, autoencoder.channels) == (8, 16)


@torch.no_grad()
def test_many_pictures_go_through_in_parts_and_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder, rgb = Autoencoder(build_vae(0)), pictures(5)
    together = autoencoder.encode(rgb)
    monkeypatch.setattr("diception.model.autoencoder.AT_ONCE", 2 * 64 * 64)
    parts = [autoencoder.encode(part) for part in (rgb[:2], rgb[2:4], rgb[4:])]
    assert torch.equal(autoencoder.encode(rgb), torch.cat(parts))
    torch.testing.assert_close(autoencoder.encode(rgb), together, atol=1e-4, rtol=1e-4)
    decoded = [autoencoder.decode(part) for part in together.split(2)]
    assert torch.equal(autoencoder.decode(together), torch.cat(decoded))


@torch.no_grad()
def test_tiny_latents_are_used_as_they_are() -> None:
    vae = AutoencoderTiny(latent_channels=16)
    autoencoder, rgb = Autoencoder(vae), pictures(2)
    latents = autoencoder.encode(rgb)
    assert torch.equal(latents, vae.encode(2 * rgb - 1).latents)  # type: ignore[union-attr]
    assert autoencoder.decode(latents).shape == rgb.shape
    assert (autoencoder.factor, autoencoder.channels) == (8, 16)


@torch.no_grad()
def test_patch_latents_are_centred_with_mean_variance_one() -> None:
    latents = Autoencoder(small_vae()).encode(pictures(64))
    assert latents.shape == (64, 16, 8, 8)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert abs(latents.var((0, 2, 3)).mean() - 1) < 1e-3


@torch.no_grad()
def test_pca_is_a_projection_and_the_best_linear_one() -> None:
    autoencoder = Autoencoder(small_vae())
    rgb = pictures(64) * 0.8 + 0.1
    once = autoencoder.decode(autoencoder.encode(rgb))
    inside = ((once > 0) & (once < 1)).all()
    assert inside, "clamping would hide the property"
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(once)), once, atol=1e-4, rtol=1e-4)
    flat = pictures(4) * 0 + 0.3
    assert psnr(once, rgb) > psnr(rgb.mean((2, 3), keepdim=True).expand_as(rgb), rgb) + 5
    assert psnr(autoencoder.decode(autoencoder.encode(flat)), flat) > 30


@torch.no_grad()
def test_calibrating_changes_the_latents_and_not_the_pictures() -> None:
    vae, rgb = small_vae(), pictures(4)
    last = vae.decoder[-1]
    assert isinstance(last, torch.nn.Conv2d)
    torch.nn.init.normal_(last.weight, std=0.02, generator=generator())  # as after training: the network adds something
    autoencoder = Autoencoder(vae)
    before, latents = autoencoder.decode(autoencoder.encode(rgb)), autoencoder.encode(rgb)
    vae.calibrate(pictures(16, seed=3) * 0.5)
    assert not torch.allclose(autoencoder.encode(rgb), latents)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(rgb)), before, atol=1e-5, rtol=1e-5)


def test_training_improves_on_pca_and_sees_neighbours() -> None:
    vae, rgb = small_vae(), pictures(8)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    errors = []
    for _ in range(30):
        error = (vae(2 * rgb - 1) - (2 * rgb - 1)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.9 * errors[0]
    latents = vae.encode(2 * rgb - 1).latents.detach()
    changed = latents.clone()
    changed[:, :, 4, 4] += 1
    difference = (vae.decode(changed).sample - vae.decode(latents).sample).abs().amax((0, 1))
    assert difference[24:32, 32:40].max() > 0


def test_default_size_is_below_a_million_parameters() -> None:
    assert sum(p.numel() for p in PatchAutoencoder().parameters()) < 1_000_000


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    vae, rgb = small_vae(), pictures(2)
    save_module(vae, tmp_path / "mine")
    vae.save_pretrained(tmp_path / "theirs")
    for folder in ("mine", "theirs"):
        assert torch.equal(load_autoencoder(tmp_path / folder).encode(rgb), Autoencoder(vae).encode(rgb))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        small_vae().fit_pca(torch.rand(2, 3, 20, 16), generator())


@pytest.fixture
def config(tmp_path: Path, scene_shards: str) -> AutoencoderConfig:
    """Of a few steps on pictures of which a half are leaves."""
    source = SourceConfig(name="scenes", shards=scene_shards, weight=1.0, tasks={"depth": 0.5, "pose": 0.5})
    return AutoencoderConfig(
        out=str(tmp_path / "whole"),
        steps=8,
        batch_size=4,
        leaves=0.5,
        width=8,
        blocks=1,
        data=DataConfig(sources=[source], size=64, workers=0),
    )


def test_pictures_are_the_same_on_any_number_of_workers_and_from_any_step(config: AutoencoderConfig) -> None:
    whole = list(training._pictures(config, 0, 4))
    config.data.workers = 2
    assert all(torch.equal(*both) for both in zip(training._pictures(config, 0, 4), whole, strict=True))
    assert all(torch.equal(*both) for both in zip(training._pictures(config, 2, 4), whole[2:], strict=True))
    assert not torch.equal(whole[0], whole[1]) and whole[0].shape == (4, 3, 64, 64)


def test_a_killed_training_continues_to_the_same_weights(
    tmp_path: Path, config: AutoencoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CALIBRATE_EVERY", 3)
    train_autoencoder(config)
    killed, calls = dataclasses.replace(config, out=str(tmp_path / "killed")), 0

    def fail(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return reconstruction_error(*arguments)

    reconstruction_error = training.reconstruction_error
    monkeypatch.setattr(training, "reconstruction_error", fail)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(killed)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["autoencoder.yaml", "state.pt"]
    train_autoencoder(killed)
    weights = [load_file(tmp_path / run / "diffusion_pytorch_model.safetensors") for run in ("whole", "killed")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for change in ({"lr": 1.0}, {"steps": 9}):
        with pytest.raises(ValueError, match=f"holds a run with other {next(iter(change))}"):
            train_autoencoder(dataclasses.replace(config, **change))
    calls = -100
    train_autoencoder(killed)
    assert calls == -100, "what is finished is not fitted again"


def test_leaves_are_pictures_that_differ_and_repeat() -> None:
    leaves = leaf_pictures(3, 48, seed=1, index=5)
    assert leaves.shape == (3, 3, 48, 48) and leaves.min() >= 0 and leaves.max() <= 1
    assert torch.equal(leaves, leaf_pictures(3, 48, seed=1, index=5))
    assert not torch.equal(leaves, leaf_pictures(3, 48, seed=1, index=6))
    assert leaves.std(dim=(1, 2, 3)).min() > 0.02
