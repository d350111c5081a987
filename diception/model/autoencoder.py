"""The autoencoder between pixels and latents: one wrapper around every kind, and a small one of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny, AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from diception.model.weights import TINY, load_module, read_json

PATCH = 8
VALUES = 3 * PATCH * PATCH
AT_ONCE = 2 << 20
"""Pixels that go through an autoencoder together, or one picture: Stable Diffusion 3's takes 2.5 kB for each."""


class Autoencoder(nn.Module):
    """Frozen autoencoder with one convention for all: RGB in [0, 1] outside, normalised latents inside."""

    def __init__(self, vae: ModelMixin):
        """Wraps `AutoencoderKL`, `AutoencoderTiny`, `PatchAutoencoder` or what encodes and decodes like them."""
        super().__init__()
        self.vae: Any = vae.requires_grad_(False)
        self.shift = vae.config.get("shift_factor") or 0.0
        self.scale = vae.config.get("scaling_factor") or 1.0
        self.encodes_in_bf16 = False
        """Whether pictures are encoded in bfloat16 while the weights stay as they are: faster, less exact."""

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Autoencoder:
        """Reads a folder with `config.json` and weights, in float32.

        Raises:
            ValueError: no such folder, an unknown kind of autoencoder, or weights that do not fit.
        """
        name = read_json(Path(folder) / "config.json").get("_class_name")
        if name not in KINDS:
            raise ValueError(f"{folder}: unknown autoencoder {name!r}; known: {', '.join(KINDS)}")
        return cls(load_module(KINDS[name], Path(folder)).float())

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config["latent_channels"]

    @property
    def factor(self) -> int:
        """Pixels along a side of one latent cell."""
        widths = self.vae.config.get("block_out_channels")
        return PATCH if widths is None else 2 ** (len(widths) - 1)

    def pixel_bytes(self) -> float:
        """As the function of this name."""
        return _pixel_bytes(self.vae.config)

    def encode(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] to (B, C, h, w) latents in float32; takes the posterior's mode, never a sample."""
        return torch.cat([self._encode(part) for part in rgb.split(_at_once(rgb.shape))])

    def _encode(self, rgb: Tensor) -> Tensor:
        # Normalised before the cast: bfloat16 has twice the precision around 0 that it has around .5.
        with torch.autocast(rgb.device.type, torch.bfloat16, enabled=self.encodes_in_bf16):
            encoded = self.vae.encode((2 * rgb - 1).to(self.vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents.float() - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents to (B, 3, H, W) RGB in [0, 1], float32."""
        factor = self.factor
        at_once = _at_once((len(latents), 3, factor * latents.shape[2], factor * latents.shape[3]))
        return torch.cat([self._decode(part) for part in latents.split(at_once)])

    def _decode(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):  # a trainer's autocast would blur the picture
            decoded = self.vae.decode((latents.float() / self.scale + self.shift).to(self.vae.dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)


def pixel_bytes(folder: str | Path) -> float:
    """What an autoencoder's most expensive pass, decoding in float32, takes for a pixel, from its config.

    Six planes of as many channels as the blocks of full size have: counted for Stable Diffusion 3's by running it on
    tensors without values. Little where there is no such block.
    """
    return _pixel_bytes(read_json(Path(folder) / "config.json"))


def _pixel_bytes(config: Mapping[str, Any]) -> float:
    return 6.0 * 4 * config.get("block_out_channels", (PATCH,))[0]


def _at_once(shape: Sequence[int]) -> int:
    """Of pictures (B, 3, H, W), how many go through the autoencoder together."""
    return max(1, AT_ONCE // (shape[2] * shape[3]))


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Eight by eight pixels to one cell by principal components, corrected by small residual networks on the cells.

    Like diffusers' autoencoders it takes and gives RGB in [-1, 1]. Latents have zero mean and about unit variance.
    """

    latent_mean: Tensor
    latent_scale: Tensor
    decoder_scale: Tensor

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 96,
        blocks: int = 3,
        encoder_blocks: int = 1,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ):
        super().__init__()
        self.to_latents = nn.Conv2d(VALUES, latent_channels, 1)
        self.to_pixels = nn.Conv2d(latent_channels, VALUES, 1)
        self.encoder = _residual_net(VALUES, latent_channels, width, encoder_blocks)
        self.decoder = _residual_net(latent_channels, VALUES, width, blocks)
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_scale", torch.ones(latent_channels, 1, 1))
        self.register_buffer("decoder_scale", torch.ones(latent_channels, 1, 1))

    def encode(self, x: Tensor) -> AutoencoderTinyOutput:
        """(B, 3, H, W) in [-1, 1] to latents (B, C, H / 8, W / 8)."""
        return AutoencoderTinyOutput(latents=(self._project(x) - self.latent_mean) * self.latent_scale)

    def decode(self, z: Tensor) -> DecoderOutput:
        """Latents (B, C, h, w) to (B, 3, 8 h, 8 w), about in [-1, 1]."""
        projected = z / self.latent_scale + self.latent_mean
        # The network sees what calibration cannot change, brought to about unit size once and for all.
        values = self.to_pixels(projected) + self.decoder(projected * self.decoder_scale)
        return DecoderOutput(sample=F.pixel_shuffle(values, PATCH))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], encoded and decoded."""
        return self.decode(self.encode(x).latents).sample

    @torch.no_grad()
    def fit_pca(self, images: Tensor, generator: torch.Generator) -> None:
        """Fresh weights: the linear maps from the principal components of `images`, the networks adding nothing yet.

        Args:
            images: (N, 3, H, W) in [0, 1].
            generator: draws the hidden weights of the networks.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % PATCH or images.shape[3] % PATCH:
            raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, 3, H, W) with H, W multiples of 8")
        blocks = F.pixel_unshuffle(2 * images.double() - 1, PATCH).movedim(1, -1).flatten(0, -2)
        mean = blocks.mean(0)
        _, axes = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
        components = axes.flip(1)[:, : self.config["latent_channels"]]
        largest = components.gather(0, components.abs().argmax(0, keepdim=True))
        components = components * largest.sign()  # eigenvectors have no sign of their own
        assert self.to_latents.bias is not None and self.to_pixels.bias is not None
        self.to_latents.weight.copy_(components.T[..., None, None])
        self.to_latents.bias.copy_(-components.T @ mean)
        self.to_pixels.weight.copy_(components[..., None, None])
        self.to_pixels.bias.copy_(mean)
        for net in (self.encoder, self.decoder):
            _init_residual_net(net, generator)
        self.calibrate(images)
        self.decoder_scale.copy_(self.latent_scale)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Sets mean and scale of the latents from `images` (N, 3, H, W) in [0, 1]; decoding undoes them exactly.

        Variances of the components span 1000:1. Dividing by the root of the standard deviation narrows that without
        raising the noise of the faint ones to the level of the strong ones; then their mean variance is set to 1.
        """
        projected = torch.cat([self._project(2 * part.to(self.latent_mean) - 1) for part in images.split(256)])
        std = projected.std(dim=(0, 2, 3)).clamp(min=1e-4)
        self.latent_mean.copy_(projected.mean(dim=(0, 2, 3))[:, None, None])
        self.latent_scale.copy_((std.rsqrt() / std.mean().sqrt())[:, None, None])

    def _project(self, x: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(x, PATCH)
        return self.to_latents(blocks) + self.encoder(blocks)


KINDS: dict[str, type[ModelMixin]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "PatchAutoencoder": PatchAutoencoder,
}


def load_autoencoder(path: str | Path) -> Autoencoder:
    """The autoencoder of its own folder, of a model directory, or of `tiny`."""
    root = TINY if str(path) == "tiny" else Path(path)
    return Autoencoder.from_pretrained(root / "vae" if (root / "vae").is_dir() else root)


class _Block(nn.Module):
    """Two convolutions added to their input; the second starts at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _residual_net(inputs: int, outputs: int, width: int, blocks: int) -> nn.Sequential:
    kernel = 1 if inputs == VALUES else 3  # an 8 x 8 block is wide enough to begin with
    first = nn.Conv2d(inputs, width, kernel, padding=kernel // 2)
    return nn.Sequential(first, *[_Block(width) for _ in range(blocks)], nn.SiLU(), nn.Conv2d(width, outputs, 1))


def _init_residual_net(net: nn.Sequential, generator: torch.Generator) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    for module in net.modules():
        if isinstance(module, _Block):
            nn.init.zeros_(module.conv2.weight)
    last = net[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
