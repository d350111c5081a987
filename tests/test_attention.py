"""Attention by plain products against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from test_transformer import SD3, SD35, SD35_LARGE, build, inputs

from diception.model.attention import PlainAttention


@pytest.mark.parametrize("config", [SD3, SD35, SD35_LARGE], ids=["sd3", "sd3.5-medium", "sd3.5-large"])
def test_it_gives_the_velocity_and_the_gradients_of_the_fused_one(config: dict) -> None:
    transformer, given = build(config), inputs(4, 12)
    found = []
    for plain in (False, True):
        if plain:
            transformer.set_attn_processor(PlainAttention())  # type: ignore[arg-type]
        transformer.zero_grad()
        velocity = transformer(**given)
        velocity.square().mean().backward()
        gradients = {n: p.grad.clone() for n, p in transformer.named_parameters() if p.grad is not None}
        found.append({"velocity": velocity.detach(), **gradients})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-5, rtol=1e-4)
