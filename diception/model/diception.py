"""The whole model: transformer, point embedder, autoencoder and prompt bank behind one velocity function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from diception.model.autoencoder import Autoencoder
from diception.model.bank import PromptBank
from diception.model.points import PointEmbedder
from diception.model.text import WordHashEncoder
from diception.model.transformer import DiceptionTransformer, init_small

TIMESTEPS = 1000


@dataclass
class ModelSettings:
    """What travels with the weights in `diception.json`."""

    resolution: int = 768
    """Side in pixels at which the model was trained."""
    shift: float = 3.0
    """Shift of the sigma schedule."""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    """The tasks that it was trained on, as `Task.as_dict` gives them."""
    licence: str = ""
    """Licence of the weights."""
    base_model: str = ""
    """The model that training started from."""
    training: dict[str, Any] = field(default_factory=dict)
    """Summary of the training: steps, samples, data, scores."""
    point_order: str = "yx"
    """Order of the coordinates of a point that the weights were trained with; the point embedder's."""
    steps: int = 28
    """Denoising steps that serve it best, for whoever does not say."""
    guidance_scale: float = 2.0
    """The same for the guidance scale."""
    lanczos: bool = False
    """Whether images are squashed with Lanczos' kernel, as the released code does, not as they are in training here."""
    sampling: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Tasks that are sampled in another way, by name: fields of `SamplingConfig`, as their adapters brought them."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON; inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSettings:
        """Reads what `as_dict` gives; a ValueError lists keys that are unknown."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown model settings {', '.join(unknown)}; known: {', '.join(sorted(asdict(cls())))}")
        return cls(**values)


@dataclass(frozen=True)
class Condition:
    """What the transformer is told beside image and noise."""

    context: Tensor
    """(B, L, text width)."""
    pooled: Tensor
    """(B, pooled width)."""
    point_tokens: Tensor
    """(B, P, D)."""

    def __getitem__(self, part: slice) -> Condition:
        """Some of the batch."""
        return Condition(*[tensor[part] for tensor in self._tensors()])

    def join(self, other: Condition) -> Condition:
        """Both batches as one, this one first."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        return Condition(*[torch.cat(pair) for pair in pairs])

    def where(self, keep: Tensor, other: Condition) -> Condition:
        """This condition where `keep` (B,) is true, `other` elsewhere."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        return Condition(*[torch.where(keep.reshape(-1, *[1] * (a.ndim - 1)), a, b.to(a.dtype)) for a, b in pairs])

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.context, self.pooled, self.point_tokens


class Diception(nn.Module):
    """One model for every task; the autoencoder is frozen, the prompts are looked up."""

    def __init__(
        self,
        transformer: DiceptionTransformer,
        points: PointEmbedder,
        autoencoder: Autoencoder,
        bank: PromptBank,
        settings: ModelSettings,
    ):
        super().__init__()
        self.transformer = transformer
        self.points = points
        self.autoencoder = autoencoder
        self.decoder: Autoencoder | None = None
        self.quantized_base: str | None = None
        """`lora.base_hash` of the weights that were quantised since, where an adapter shall still know its base."""
        self.bank = bank
        settings.point_order = points.order
        self.settings = settings
        for parameter in transformer.idle_parameters().values():
            parameter.requires_grad_(False)  # no gradient would ever reach them, only weight decay

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return self.points.seg_embedding.device

    @property
    def largest(self) -> int:
        """Pixels a side at most: the transformer's positions reach so far."""
        config = self.transformer.config
        return config["pos_embed_max_size"] * config["patch_size"] * self.autoencoder.factor

    @property
    def dtype(self) -> torch.dtype:
        """Type of the transformer's weights."""
        return self.points.seg_embedding.dtype

    def encode(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] to latents (B, C, h, w), float32."""
        return self.autoencoder.encode(rgb)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to RGB (B, 3, H, W) in [0, 1], float32."""
        return (self.decoder or self.autoencoder).decode(latents)

    def decode_with(self, decoder: Autoencoder) -> None:
        """Decodes by another autoencoder of the same latents from now on, a smaller and faster one for example.

        Raises:
            ValueError: its latents have other channels or cells.
        """
        own, other = ((a.channels, a.factor) for a in (self.autoencoder, decoder))
        if own != other:
            latents = "{0} channels and cells of {1} pixels"
            raise ValueError(f"the decoder has {latents.format(*other)}; the model has {latents.format(*own)}")
        self.decoder = decoder

    def condition(
        self,
        prompts: Sequence[str],
        points: Tensor,
        point_mask: Tensor,
        size: tuple[int, int] | None = None,
    ) -> Condition:
        """Embeds prompts and points.

        Args:
            prompts: B prompts.
            points: (B, P, 2) of (x, y) in [0, 1].
            point_mask: (B, P) bool, true where a slot is used.
            size: (H, W) in pixels of the images; the model's own resolution by default.
        """
        context, pooled = self.bank.lookup(prompts, self.device, self.dtype)
        patch = self.autoencoder.factor * self.transformer.config["patch_size"]
        cells = None if size is None else (size[0] // patch, size[1] // patch)
        return Condition(context, pooled, self.points(points.to(self.device), point_mask.to(self.device), cells))

    def uncondition(self, batch_size: int) -> Condition:
        """The empty prompt with point tokens of exact zeros, as the released code guides against."""
        context, pooled = self.bank.lookup([""] * batch_size, self.device, self.dtype)
        return Condition(context, pooled, context.new_zeros(batch_size, 5, self.points.seg_embedding.shape[1]))

    def velocity(self, latents: Tensor, sigmas: Tensor, image_latents: Tensor, condition: Condition) -> Tensor:
        """Velocity (B, C, h, w), in the type of `latents`, so that a sampler can sum in float32.

        Args:
            latents: (B, C, h, w) noisy latents.
            sigmas: (B,), 1 is noise.
            image_latents: (B, C, h, w) of the input images.
            condition: of the same batch.
        """
        velocity = self.transformer(
            latents.to(self.dtype),
            image_latents.to(self.dtype),
            sigmas.float() * TIMESTEPS,
            condition.context,
            condition.pooled,
            condition.point_tokens,
        )
        return velocity.to(latents.dtype)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that require a gradient, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def small_model(
    autoencoder: Autoencoder,
    generator: torch.Generator,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    resolution: int = 128,
    text_width: int = 64,
    text_tokens: int = 16,
    point_encoding: str = "grid",
    point_order: str = "yx",
    patch: int = 2,
) -> Diception:
    """A transformer of SD3's shape, small enough for a laptop, with fresh weights.

    Args:
        autoencoder: its channels set the transformer's.
        generator: draws the weights.
        width: D, a multiple of `heads` and of 4.
        layers: blocks.
        heads: attention heads.
        resolution: side of the images in pixels; larger ones do not fit.
        text_width: width of a word's vector.
        text_tokens: L, words of a prompt.
        point_encoding: `grid` or `fourier`.
        point_order: `yx` or `xy`.
        patch: latent cells along a side of a token; 2 is SD3's.
    """
    if patch < 1:
        raise ValueError(f"patch is {patch}; allowed: 1 and more")
    if width % heads or width % 4:
        raise ValueError(f"width is {width}; it must be a multiple of 4 and of heads, {heads}")
    if resolution % (patch * autoencoder.factor):
        raise ValueError(f"resolution is {resolution}; it must be a multiple of {patch * autoencoder.factor}")
    cells = resolution // autoencoder.factor // patch
    transformer = DiceptionTransformer(
        sample_size=patch * cells,
        patch_size=patch,
        in_channels=autoencoder.channels,
        out_channels=autoencoder.channels,
        num_layers=layers,
        attention_head_dim=width // heads,
        num_attention_heads=heads,
        joint_attention_dim=text_width,
        caption_projection_dim=width,
        pooled_projection_dim=text_width,
        pos_embed_max_size=cells,
    )
    init_small(transformer, generator)
    points = PointEmbedder(width, point_encoding, point_order, cells, table_cells=cells, table_base=cells)
    points.initialize(generator)
    bank = PromptBank(WordHashEncoder(text_width, text_tokens))
    return Diception(transformer, points, autoencoder, bank, ModelSettings(resolution=resolution))
