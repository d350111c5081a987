"""Fits the small autoencoder: PCA of 8 x 8 blocks first, then gradient descent on images and painted targets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from diception.config import AutoencoderConfig, save_config
from diception.datasets.sample import collate
from diception.datasets.synthetic.leaves import leaf_pictures
from diception.model.autoencoder import PatchAutoencoder
from diception.model.weights import WEIGHTS
from diception.training.build import check_same_run, config_tasks
from diception.training.checkpoints import PARTIAL
from diception.training.datamodule import open_stream

CONFIG, STATE = "autoencoder.yaml", "state.pt"
PCA_BATCHES = 16
CALIBRATE_EVERY = 100
"""Steps after which the latents are brought back to unit variance, so that the noise on them keeps its weight."""
CLIP = 0.2
"""Gradient norm; a few large steps can silence a network without normalisation for good."""


def train_autoencoder(config: AutoencoderConfig) -> Path:
    """Fits a `PatchAutoencoder` on the pictures of a stream and writes it to `config.out`.

    Half of the pictures are images, half targets, so that it serves both sides of the model. Latents get noise while
    training, so that decoding forgives the small errors that any denoised latent has. The same call continues where a
    killed one stopped, and leaves a finished one as it is.

    Raises:
        ValueError: the folder holds a run with another config.
    """
    out = Path(config.out)
    check_same_run(config, out / CONFIG, fixed=("steps",))  # the learning rate's course depends on them
    if (out / WEIGHTS).exists() and not (out / STATE).exists():
        return out
    first = torch.cat(list(_pictures(config, 0, PCA_BATCHES)))
    out.mkdir(parents=True, exist_ok=True)
    save_config(config, out / CONFIG)
    generator = torch.Generator().manual_seed(config.seed)
    model = PatchAutoencoder(width=config.width, blocks=config.blocks, encoder_blocks=config.encoder_blocks)
    model.fit_pca(first, generator)
    convert_conv2d_weight_memory_format(model, torch.channels_last)  # a quarter less work for a CPU
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps, pct_start=0.05)
    parts = (model, optimizer, schedule)
    begin = _restore(out / STATE, parts, generator)
    pictures = _pictures(config, PCA_BATCHES + begin, PCA_BATCHES + config.steps)
    bar = tqdm(range(begin, config.steps), "autoencoder", config.steps, unit="step", initial=begin, mininterval=2)
    for step in bar:
        if step % CALIBRATE_EVERY == 0:
            _keep(out / STATE, step, parts, generator)
            model.calibrate(first)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16-mixed"):
            error = reconstruction_error(model, next(pictures), config.noise, generator)
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        bar.set_postfix(psnr=f"{-10 * torch.log10(error.detach()):.1f} dB", refresh=False)
    model.calibrate(first)
    model.save_pretrained(out, safe_serialization=True)
    (out / STATE).unlink(missing_ok=True)
    return out


def _keep(path: Path, step: int, parts: Iterable[Any], generator: torch.Generator) -> None:
    """Writes all that the rest of the run depends on, whole or not at all."""
    state = {"step": step, "parts": [part.state_dict() for part in parts], "generator": generator.get_state()}
    partial = path.with_suffix(PARTIAL)
    torch.save(state, partial)
    os.replace(partial, path)


def _restore(path: Path, parts: Iterable[Any], generator: torch.Generator) -> int:
    """Brings back what `_keep` wrote; returns the step it was written at, 0 where there is nothing."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for part, values in zip(parts, state["parts"], strict=True):
        part.load_state_dict(values)
    generator.set_state(state["generator"])
    return state["step"]


def reconstruction_error(model: PatchAutoencoder, pictures: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Mean squared error () of pictures (B, 3, H, W) in [0, 1] through latents with noise of this deviation."""
    latents = model.encode(2 * pictures - 1).latents
    disturbed = latents + noise * torch.randn(latents.shape, generator=generator)
    return (model.decode(disturbed).sample / 2 + 0.5 - pictures).square().mean()


class _Pictures(Dataset[Tensor]):
    """Batches (B, 3, H, W) in [0, 1] by number, drawn by workers: leaves, and as many images as targets."""

    def __init__(self, config: AutoencoderConfig):
        self.config = config
        self.stream = open_stream(config.data, config_tasks(config, []), config.seed)

    def __getitem__(self, number: int) -> Tensor:
        count, leaves = self.config.pairs, self.config.leaf_count
        drawn = collate([self.stream[number * count + i] for i in range(count)])
        assert drawn.target is not None
        pictures = [drawn.image, drawn.target]
        if leaves:
            pictures.append(leaf_pictures(leaves, self.config.data.size, self.config.seed, number))
        return torch.cat(pictures)


def _pictures(config: AutoencoderConfig, begin: int, end: int) -> Iterator[Tensor]:
    """The batches begin to end."""
    return iter(
        DataLoader(_Pictures(config), batch_size=None, sampler=range(begin, end), num_workers=config.data.workers)
    )
