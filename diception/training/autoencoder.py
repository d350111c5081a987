"""Fits the small autoencoder: PCA of 8 x 8 blocks first, then gradient descent on images and painted targets."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from diception.config import AutoencoderConfig
from diception.datasets.mixture import PositionSampler
from diception.datasets.sample import Batch, collate
from diception.model.autoencoder import PatchAutoencoder
from diception.tasks import known_tasks
from diception.training.datamodule import open_stream

PCA_BATCHES = 16
CALIBRATE_EVERY = 100
"""Steps after which the latents are brought back to unit variance, so that the noise on them keeps its weight."""
CLIP = 0.2
"""Gradient norm; a few large steps can silence a network without normalisation for good."""


def train_autoencoder(config: AutoencoderConfig) -> Path:
    """Fits a `PatchAutoencoder` on the pictures of a stream and writes it to `config.out`.

    Half of the pictures are images, half targets, so that it serves both sides of the model. Latents get noise while
    training, so that decoding forgives the small errors that any denoised latent has.
    """
    stream = open_stream(config.data, {task.name: task for task in known_tasks()}, config.seed)
    sampler = PositionSampler(config.batch_size // 2, 0, config.steps + PCA_BATCHES, 0, 1)
    loader = iter(DataLoader(stream, batch_sampler=sampler, collate_fn=collate, num_workers=config.data.workers))
    generator = torch.Generator().manual_seed(config.seed)
    first = torch.cat([_pictures(next(loader)) for _ in range(PCA_BATCHES)])
    model = PatchAutoencoder(width=config.width, blocks=config.blocks)
    model.fit_pca(first, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps, pct_start=0.05)
    bar = tqdm(range(config.steps), desc="autoencoder", unit="step", mininterval=2)
    for step in bar:
        if step % CALIBRATE_EVERY == 0:
            model.calibrate(first)
        error = reconstruction_error(model, _pictures(next(loader)), config.noise, generator)
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        bar.set_postfix(psnr=f"{-10 * torch.log10(error.detach()):.1f} dB", refresh=False)
    model.calibrate(first)
    model.save_pretrained(config.out, safe_serialization=True)
    return Path(config.out)


def reconstruction_error(model: PatchAutoencoder, pictures: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Mean squared error () of pictures (B, 3, H, W) in [0, 1] through latents with noise of this deviation."""
    latents = model.encode(2 * pictures - 1).latents
    disturbed = latents + noise * torch.randn(latents.shape, generator=generator)
    return (model.decode(disturbed).sample / 2 + 0.5 - pictures).square().mean()


def _pictures(batch: Batch) -> Tensor:
    assert batch.target is not None
    return torch.cat([batch.image, batch.target])
