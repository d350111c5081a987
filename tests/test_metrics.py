"""Metrics: against closed forms, slow references and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from diception.metrics import (
    abs_rel,
    align_least_squares,
    angular_error,
    boundary_f1,
    delta,
    dice,
    iou,
    otsu_threshold,
    psnr,
    rmse,
)

RNG = np.random.default_rng(0)


def test_alignment_undoes_scale_and_shift_and_is_the_least_squares_fit() -> None:
    target = RNG.random(200)
    assert np.allclose(align_least_squares(3 * target - 7, target), target)
    values = RNG.random(200)
    slope, intercept = np.polyfit(values, target, 1)
    assert np.allclose(align_least_squares(values, target), slope * values + intercept)


def test_a_constant_is_aligned_to_the_mean() -> None:
    target = RNG.random(50)
    assert np.allclose(align_least_squares(np.full(50, 0.3), target), target.mean())


def test_depth_metrics_of_a_known_error() -> None:
    truth = RNG.uniform(1, 9, 100)
    assert np.isclose(abs_rel(1.1 * truth, truth), 0.1) and np.isclose(rmse(truth + 0.5, truth), 0.5)
    assert delta(1.2 * truth, truth) == 1 and delta(1.3 * truth, truth) == 0 and delta(truth / 1.3, truth, 2) == 1


@pytest.mark.parametrize("degrees", [0.0, 0.01, 3.0, 90.0, 179.5, 180.0])
def test_angles_are_exact_also_when_small(degrees: float) -> None:
    angle = np.radians(degrees)
    one = np.array([0, 0, 1.0])[:, None, None]
    other = np.array([np.sin(angle), 0, np.cos(angle)])[:, None, None]
    assert np.isclose(angular_error(one, other), degrees, atol=1e-6)
    assert np.isclose(angular_error(0.99 * one, 1.01 * other), degrees, atol=1e-6), "as 8 bits leave them"
    assert np.isclose(angular_error(0 * one, other), 90), "no answer is no right one"


def test_overlap_metrics_agree_with_their_definitions() -> None:
    one, other = RNG.random((9, 9)) < 0.4, RNG.random((9, 9)) < 0.6
    both, either = (one & other).sum(), (one | other).sum()
    assert iou(one, other) == both / either and dice(one, other) == 2 * both / (one.sum() + other.sum())
    value = iou(one, other)
    assert np.isclose(dice(one, other), 2 * value / (1 + value))


@pytest.mark.parametrize("metric", [iou, dice, boundary_f1])
def test_overlap_of_empty_masks(metric) -> None:
    none, some = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    some[2:5, 2:5] = True
    assert metric(none, none) == 1 and metric(none, some) == metric(some, none) == 0 and metric(some, some) == 1


def test_boundary_f1_forgives_up_to_its_tolerance() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:25, 8:30] = True
    for shift, perfect in ((1, True), (2, True), (3, False)):
        moved = ndimage.shift(mask.astype(int), (shift, 0), order=0) > 0
        assert (boundary_f1(moved, mask) == 1) == perfect
    assert boundary_f1(np.roll(mask, 3, 0), mask) == boundary_f1(mask, np.roll(mask, 3, 0))


def test_psnr_of_a_known_error() -> None:
    image = np.full((3, 5, 5), 0.5)
    assert np.isclose(psnr(image + 0.1, image), 20) and psnr(image, image) == 100


def test_otsu_divides_two_populations() -> None:
    grey = np.concatenate([RNG.normal(0.2, 0.03, 300), RNG.normal(0.8, 0.03, 100)])
    assert (grey > otsu_threshold(grey)).tolist() == [False] * 300 + [True] * 100
