"""The point embedder: slots, order of coordinates, and the table between its cells."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import PatchEmbed
from small import generator

from diception.model.points import ENCODINGS, PointEmbedder

MASK = torch.tensor([[True, True, False, False, False]])


def build(encoding: str = "grid", order: str = "yx", **table: int) -> PointEmbedder:
    embedder = PointEmbedder(32, encoding, order, **(table or {"cells": 8, "table_cells": 8, "table_base": 8}))
    embedder.initialize(generator())
    return embedder.eval()


def points(seed: int = 1) -> torch.Tensor:
    return torch.rand(1, 5, 2, generator=generator(seed))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_empty_slot_is_the_origin_whatever_it_holds(encoding: str) -> None:
    embedder = build(encoding)
    tokens = embedder(points(), MASK)
    zeroed = torch.where(MASK[..., None], points(), 0)
    assert torch.equal(tokens, embedder(zeroed, MASK))
    origin = embedder(torch.zeros(1, 5, 2), ~torch.zeros_like(MASK))
    expected = origin[0, 0] - embedder.seg_embedding[0] + embedder.not_seg_embedding[0]
    torch.testing.assert_close(tokens[0, 2:], expected.expand(3, -1))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_trainers_autocast_does_not_blur_where_a_point_is(encoding: str) -> None:
    embedder = build(encoding)
    near = torch.full((1, 5, 2), 0.97) + torch.arange(5)[None, :, None] / 768
    with torch.autocast("cpu", torch.bfloat16):
        found = embedder(near, torch.ones_like(MASK))
    wanted = embedder(near, torch.ones_like(MASK))
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()  # the map behind it may be in bfloat16
    gaps = [(tokens[0, 1:] - tokens[0, :-1]).norm(dim=1) for tokens in (found.float(), wanted)]
    assert (gaps[0] > 0.5 * gaps[1]).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_slots_do_not_see_each_other(encoding: str) -> None:
    embedder, given = build(encoding), points()
    order = torch.tensor([1, 0, 4, 3, 2])
    swapped = embedder(given[:, order], MASK[:, order])
    torch.testing.assert_close(swapped, embedder(given, MASK)[:, order], atol=1e-6, rtol=1e-5)


def test_order_swaps_the_coordinates_that_fourier_sees() -> None:
    xy, yx = build("fourier", "xy"), build("fourier", "yx")
    yx.load_state_dict(xy.state_dict())
    assert torch.equal(xy(points().flip(-1), MASK), yx(points(), MASK))
    assert not torch.allclose(xy(points(), MASK), yx(points(), MASK))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 6), (12, 12)])
def test_grid_at_the_centre_of_a_cell_is_the_position_of_that_cell(height: int, width: int) -> None:
    table = PatchEmbed(16, 16, patch_size=2, in_channels=16, embed_dim=32, pos_embed_max_size=12)
    embedder = build(cells=8, table_cells=12, table_base=8)
    rows, columns = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([5, 4, 0, 1, 2])
    centres = torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], -1)[None]
    mask = torch.ones(1, 5, dtype=torch.bool)
    found = embedder(centres, mask, cells=(height, width)) - embedder.seg_embedding
    positions = table.cropped_pos_embed(2 * height, 2 * width)[0, rows * width + columns]
    torch.testing.assert_close(found[0], positions, atol=1e-5, rtol=1e-4)


def test_grid_defaults_to_the_native_cells() -> None:
    embedder = build(cells=8, table_cells=12, table_base=8)
    assert torch.equal(embedder(points(), MASK), embedder(points(), MASK, cells=(8, 8)))


def test_unknown_choices_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="fourier, grid"):
        PointEmbedder(32, "sinus")
    with pytest.raises(ValueError, match="yx, xy"):
        PointEmbedder(32, "grid", "rc")
