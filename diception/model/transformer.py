"""The transformer: Stable Diffusion 3's, with image tokens beside the noisy ones and point tokens in the context."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, SD35AdaLayerNormZeroX
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn

SMALL_GATE = 0.7
# Which of the chunks of an adaLN layer are gates (diffusers `AdaLayerNormZero`, `SD35AdaLayerNormZeroX`).
GATES: dict[type[nn.Module], tuple[int, tuple[int, ...]]] = {
    AdaLayerNormZero: (6, (2, 5)),
    SD35AdaLayerNormZeroX: (9, (2, 5, 8)),
}


class DiceptionTransformer(SD3Transformer2DModel):
    """SD3's transformer (all sizes, also SD3.5) on noisy tokens, image tokens, text tokens and point tokens.

    It adds no parameter: the weights are those of `SD3Transformer2DModel`. Without image and points it equals it.
    """

    _repeated_blocks = ["JointTransformerBlock"]  # what `compile_repeated_blocks` compiles; the parent names none
    checkpoint_every = 1
    """With gradient checkpointing, every so-manieth block is computed again in the backward pass."""

    def forward(
        self,
        hidden_states: Tensor,
        image_latents: Tensor | None,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        point_tokens: Tensor | None = None,
    ) -> Tensor:
        """Predicts the velocity of the noisy latents.

        Args:
            hidden_states: (B, C, h, w) noisy latents.
            image_latents: (B, C, h, w) clean latents of the input image, whose tokens get the same positions.
            timestep: (B,) sigma times 1000.
            encoder_hidden_states: (B, L, text width) context.
            pooled_projections: (B, pooled width).
            point_tokens: (B, P, D), appended to the embedded context.

        Returns:
            (B, C, h, w) velocity.
        """
        height, width = hidden_states.shape[-2:]
        tokens = self.pos_embed(hidden_states).contiguous()
        noisy_count = tokens.shape[1]
        if image_latents is not None:
            tokens = torch.cat([tokens, self.pos_embed(image_latents)], dim=1)
        assert self.context_embedder is not None and self.norm_out is not None
        context = self.context_embedder(encoder_hidden_states)
        if point_tokens is not None:
            context = torch.cat([context, point_tokens.to(context.dtype)], dim=1)
        condition = self.time_text_embed(timestep, pooled_projections)
        again = torch.is_grad_enabled() and self.gradient_checkpointing
        for number, block in enumerate(self.transformer_blocks):
            if again and number % self.checkpoint_every == 0:
                checkpointed: Any = self._gradient_checkpointing_func
                context, tokens = checkpointed(block, tokens, context, condition)
            else:
                context, tokens = block(hidden_states=tokens, encoder_hidden_states=context, temb=condition)
        tokens = self.proj_out(self.norm_out(tokens[:, :noisy_count], condition))
        return self._unpatchify(tokens, height, width)

    def _unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(B, N, patch * patch * C) tokens to (B, C, height, width)."""
        patch = self.config["patch_size"]
        cells = tokens.unflatten(1, (height // patch, width // patch)).unflatten(3, (patch, patch, self.out_channels))
        return torch.einsum("nhwpqc->nchpwq", cells).reshape(len(tokens), self.out_channels, height, width)

    def idle_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that cannot change the velocity: the last block drops its context, so also the context's query."""
        last = f"transformer_blocks.{len(self.transformer_blocks) - 1}.attn"
        names = (f"{last}.add_q_proj.", f"{last}.norm_added_q.")
        return {name: p for name, p in self.named_parameters() if name.startswith(names)}


@torch.no_grad()
def init_small(transformer: SD3Transformer2DModel, generator: torch.Generator) -> None:
    """Fresh weights for a small transformer that must learn within minutes.

    Xavier for every linear map, as DiT does, but the gates of adaLN start near .7 and not at 0, where a small model
    stays for long. The output starts at zero.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            fan_in = math.prod(module.weight.shape[1:])
            module.weight.normal_(0, fan_in**-0.5, generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    for module in transformer.modules():
        if isinstance(module, (AdaLayerNormZero, SD35AdaLayerNormZeroX, AdaLayerNormContinuous)):
            nn.init.normal_(module.linear.weight, std=0.02, generator=generator)
            chunks, gates = GATES.get(type(module), (2, ()))
            for gate in gates:
                module.linear.bias.chunk(chunks)[gate].fill_(SMALL_GATE)
    nn.init.zeros_(transformer.proj_out.weight)
