"""Joint attention by plain matrix products, for training in bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class PlainAttention:
    """What `JointAttnProcessor2_0` of diffusers computes, without the fused kernel.

    On CPUs the backward pass of PyTorch's fused attention is slow in bfloat16: on a Xeon with AMX it takes 45 % of a
    step of the tiny model, which these products take a quarter less. They keep the scores, (B, heads, N + L, N + L),
    so they are for short sequences.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Any:
        """(B, N, D) tokens, or these and (B, L, D) context where there is one; masks are not known to SD3."""
        assert attention_mask is None
        layer: Any = attn
        streams = [_heads(layer, hidden_states, (layer.to_q, layer.to_k, layer.to_v), (layer.norm_q, layer.norm_k))]
        if encoder_hidden_states is not None:
            maps = (layer.add_q_proj, layer.add_k_proj, layer.add_v_proj)
            streams.append(_heads(layer, encoder_hidden_states, maps, (layer.norm_added_q, layer.norm_added_k)))
        queries, keys, values = (torch.cat(parts, dim=2) for parts in zip(*streams, strict=True))
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        mixed = (scores.float().softmax(dim=-1).to(values.dtype) @ values).transpose(1, 2).flatten(2)
        count = hidden_states.shape[1]
        tokens = layer.to_out[1](layer.to_out[0](mixed[:, :count]))
        if encoder_hidden_states is None:
            return tokens
        context = mixed[:, count:]
        return tokens, context if layer.context_pre_only else layer.to_add_out(context)


def _heads(
    attn: Any, tokens: Tensor, maps: Sequence[nn.Module], norms: Sequence[nn.Module | None]
) -> tuple[Tensor, ...]:
    """Queries, keys and values of (B, N, D) tokens, (B, heads, N, D / heads) each."""
    found = [one(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for one in maps]
    normed = [norm(part) if norm is not None else part for norm, part in zip(norms, found[:2], strict=True)]
    return (*normed, found[2])
