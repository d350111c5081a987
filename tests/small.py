"""A small untrained model and pictures for the tests."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diception.model.autoencoder import Autoencoder, PatchAutoencoder
from diception.model.diception import Diception, small_model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4, size: int = 64, seed: int = 0) -> Tensor:
    """(count, 3, size, size) smooth pictures in [0, 1]."""
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator(seed))
    return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


def small_vae() -> PatchAutoencoder:
    vae = PatchAutoencoder(width=16, blocks=1)
    vae.fit_pca(pictures(64), generator())
    return vae


def make_model(seed: int = 0, point_encoding: str = "grid", order: str = "yx", patch: int = 2) -> Diception:
    """64 pixels, 2 blocks, 64 wide, with an output that is not zero."""
    model = small_model(
        Autoencoder(small_vae()),
        generator(seed),
        width=64,
        layers=2,
        heads=2,
        resolution=64,
        text_width=32,
        text_tokens=8,
        point_encoding=point_encoding,
        point_order=order,
        patch=patch,
    )
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1, generator=generator(seed + 1))
    return model.eval()


def predict(model: Diception, prompt: str = "[[image2depth]]") -> Tensor:
    """Velocity (2, 16, 8, 8) on fixed inputs with one point."""
    latents = torch.randn(2, 16, 8, 8, generator=generator(5))
    mask = torch.tensor([True, False, False, False, False]).expand(2, -1)
    condition = model.condition([prompt] * 2, torch.rand(2, 5, 2, generator=generator(6)), mask)
    image_latents = model.encode(pictures(2))
    return model.velocity(latents, torch.tensor([1.0, 0.3]), image_latents, condition)
