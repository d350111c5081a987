"""Colours: far apart where they must be, and helpers equal to their slow references."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from diception.colors import (
    GRID_PALETTE,
    SPECTRAL,
    color_path,
    colormap,
    label_components,
    median3,
    nearest_color,
    nearest_on_path,
    overlay_masks,
)


def test_the_palette_keeps_half_the_range_between_any_two_colours_and_black() -> None:
    colors = np.concatenate([np.zeros((1, 3)), GRID_PALETTE])
    gaps = np.linalg.norm(colors[:, None] - colors[None], axis=-1)[~np.eye(27, dtype=bool)]
    assert GRID_PALETTE.shape == (26, 3) and gaps.min() == 0.5


@pytest.mark.parametrize("shape", [(3, 17, 23), (1, 2, 3), (4, 1, 5)])
def test_the_median_is_the_median(shape: tuple[int, int, int]) -> None:
    planes = np.random.default_rng(0).random(shape, np.float32)
    slow = np.stack([ndimage.median_filter(plane, 3, mode="nearest") for plane in planes])
    assert np.array_equal(median3(planes), slow)


def test_colours_on_the_path_say_their_value_and_the_path_is_long() -> None:
    values = np.linspace(0, 1, 701, dtype=np.float32)[None]
    painted = color_path(values)
    assert painted.shape == (3, 1, 701) and painted.min() == 0 and painted.max() == 1
    np.testing.assert_allclose(nearest_on_path(painted), values, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.diff(painted[:, 0], axis=1)).sum(), 7, rtol=1e-5)
    noisy = painted + np.random.default_rng(0).normal(0, 0.03, painted.shape).astype(np.float32)
    assert np.abs(nearest_on_path(noisy) - values).mean() < 0.03 / 7


def test_nearest_color_is_the_nearest() -> None:
    rng = np.random.default_rng(1)
    pixels, colors = rng.random((9, 8, 3), np.float32), rng.random((7, 3), np.float32)
    gaps = np.linalg.norm(pixels[:, :, None] - colors, axis=-1)
    assert np.array_equal(nearest_color(pixels, colors), gaps.argmin(axis=-1))
    assert np.array_equal(nearest_color(GRID_PALETTE[None], GRID_PALETTE)[0], np.arange(26))


def test_colormap_goes_through_its_table() -> None:
    values = np.linspace(0, 1, len(SPECTRAL), dtype=np.float32)[None]
    assert np.abs(colormap(values)[0].astype(float) - SPECTRAL).max() <= 0.5
    assert np.array_equal(colormap(np.array([[-3, 4]], np.float32)), colormap(np.array([[0, 1]], np.float32)))


def test_components_are_numbered_from_one() -> None:
    mask = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1]], bool)
    labels, count = label_components(mask)
    assert count == 3 and labels.tolist() == [[1, 0, 2], [1, 0, 0], [0, 3, 3]]


def test_overlay_shows_masks_and_leaves_its_inputs_alone() -> None:
    image, mask = np.full((20, 30, 3), 100, np.uint8), np.zeros((20, 30), bool)
    mask[4:12, 5:20] = True
    picture = overlay_masks([mask], image, (20, 30))
    assert picture.shape == (20, 30, 3) and picture.dtype == np.uint8 and (image == 100).all()
    assert len({tuple(v) for v in (picture[0, 0], picture[4, 5], picture[8, 10])}) == 3
    assert overlay_masks([], None, (5, 6)).shape == (5, 6, 3)
