"""Transforms: image and annotation move together, draws come from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from diception.annotations import BinaryMask, DepthMap
from diception.datasets.sample import Sample
from diception.datasets.transforms import Augment, crop, hflip, jitter, resize, square, turn


def make_sample(size: tuple[int, int] = (40, 60)) -> Sample:
    """A bright disc on black; the mask marks it and the depth is the red channel."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = (rows - size[0] * 0.4) ** 2 + (columns - size[1] * 0.3) ** 2 < (size[0] / 4) ** 2
    image = np.where(disc[..., None], 255, 0).astype(np.uint8).repeat(3, axis=-1)
    depth = np.where(disc, 2.0, 5.0).astype(np.float32)
    return Sample("k", image, {"mask": BinaryMask(disc), "depth": DepthMap(depth)})


def together(sample: Sample) -> float:
    """Intersection over union of the bright disc and its mask."""
    mask = sample.annotations["mask"]
    assert isinstance(mask, BinaryMask) and mask.size == sample.size
    bright = sample.image[..., 0] > 127
    return float((bright & mask.mask).sum() / max((bright | mask.mask).sum(), 1))


def test_squash_keeps_image_and_annotation_together() -> None:
    small = square(make_sample((100, 60)), 32)
    assert small.image.shape == (32, 32, 3) and small.image.dtype == np.uint8
    assert together(small) > 0.9
    assert together(resize(make_sample(), 80, 90)) > 0.9
    sample = make_sample()
    assert resize(sample, 40, 60) is sample
    with pytest.raises(ValueError, match="at least 1 x 1"):
        square(sample, 0)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = square(Sample("k", stripes), 8).image
    assert np.abs(small.astype(int) - 128).max() < 8


def test_crop_is_the_window() -> None:
    sample = make_sample()
    window = crop(sample, 5, 7, 20, 30)
    assert np.array_equal(window.image, sample.image[5:25, 7:37])
    assert together(window) == 1
    for bad in [(-1, 0, 5, 5), (0, 0, 0, 5), (30, 0, 11, 5), (0, 50, 5, 11)]:
        with pytest.raises(ValueError, match="crop"):
            crop(sample, *bad)


def test_two_mirrors_are_none() -> None:
    sample = make_sample()
    mirrored = hflip(sample)
    assert together(mirrored) == 1 and not np.array_equal(mirrored.image, sample.image)
    assert np.array_equal(hflip(mirrored).image, sample.image)


def test_four_turns_are_none_and_three_quarters_of_the_samples_are_turned() -> None:
    sample = make_sample()
    once = turn(sample)
    assert together(once) == 1 and once.size == sample.size[::-1]
    assert np.array_equal(turn(turn(turn(once))).image, sample.image)
    augment, seen = Augment(turns=True), set()
    for seed in range(40):
        changed = augment(make_sample(), 48, np.random.default_rng(seed))
        assert together(changed) > 0.85
        seen.add(changed.image.tobytes())
    assert len(seen) == 4


def test_no_augmentation_is_the_squash() -> None:
    sample = make_sample()
    assert np.array_equal(Augment()(sample, 32, np.random.default_rng(0)).image, square(sample, 32).image)


def test_augmentation_moves_together_and_repeats_with_the_generator() -> None:
    augment, seen = Augment(hflip=0.5, scale=(0.3, 1.0), photometric=0.2), set()
    for seed in range(30):
        first = augment(make_sample(), 48, np.random.default_rng(seed))
        again = augment(make_sample(), 48, np.random.default_rng(seed))
        assert first.size == (48, 48) and np.array_equal(first.image, again.image)
        assert together(first) > 0.85
        seen.add(first.image.tobytes())
    assert len(seen) == 30


def test_crops_keep_the_stated_share_of_the_area() -> None:
    augment = Augment(scale=(0.25, 0.5))
    for seed in range(200):
        top, left, height, width = augment._window((300, 200), (300, 200), np.random.default_rng(seed))
        assert 0 <= top <= 300 - height and 0 <= left <= 200 - width
        assert 0.24 < height * width / (300 * 200) < 0.51
        assert 1 / 1.36 < (height / 300) / (width / 200) < 1.36


def test_jitter_of_nothing_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    assert np.abs(jitter(image, 0.0, np.random.default_rng(0)).astype(int) - image).max() <= 1
    assert not np.array_equal(jitter(image, 0.3, np.random.default_rng(0)), image)


@pytest.mark.parametrize(
    "wrong", [{"hflip": 1.5}, {"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"ratio": 0.5}, {"photometric": 1.0}]
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)
