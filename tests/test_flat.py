"""Flat pictures: pure functions of their arguments, masks and instances that agree, appearances that vary."""

import numpy as np
import pytest

from diception.annotations import BinaryMask, InstanceMasks
from diception.datasets.sample import Sample
from diception.datasets.synthetic import SyntheticScenes, render_scene
from diception.metrics import otsu_threshold
from diception.tasks import get_task

SIZE, COUNT = 64, 60


@pytest.fixture(scope="module")
def pictures() -> list[Sample]:
    return [render_scene(1, index, SIZE, 3) for index in range(COUNT)]


def parts(sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
    """Mask, union of the instances, and category."""
    mask, instances = sample.annotations["mask"], sample.annotations["instances"]
    assert isinstance(mask, BinaryMask) and isinstance(instances, InstanceMasks)
    union = instances.masks.any(axis=0) if len(instances.masks) else np.zeros_like(mask.mask)
    return mask.mask, union, instances.categories[0] if instances.categories else ""


def test_a_picture_is_a_function_of_its_seed_and_index() -> None:
    first, again, other = (render_scene(*which, SIZE, 3) for which in ((5, 3), (5, 3), (5, 4)))
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, other.image)
    for kind, annotation in first.annotations.items():
        assert annotation.to_bytes() == again.annotations[kind].to_bytes()
    assert SyntheticScenes(4, SIZE, 3, 5)[3].key == first.key


def test_instances_are_disjoint_and_fit_the_mask(pictures: list[Sample]) -> None:
    seen = set()
    for sample in pictures:
        mask, union, category = parts(sample)
        seen.add(category)
        instances = sample.annotations["instances"]
        assert isinstance(instances, InstanceMasks)
        assert instances.masks.sum(axis=0, dtype=int).max(initial=0) <= 1
        if category == "cell":
            assert not (mask & union).any() and (mask | union).mean() > 0.95  # slivers are no instance
        else:
            assert not (union & ~mask).any() and (mask & ~union).mean() < 0.08  # specks are none either
    assert {"blob", "cell", "fibre"} <= seen


def test_no_polarity_and_no_brightness_gives_the_mask_away(pictures: list[Sample]) -> None:
    brighter, levels, overlaps = [], [], []
    for sample in pictures:
        mask, _, _ = parts(sample)
        grey = sample.image.mean(axis=2)
        levels.append(np.quantile(grey, 0.99))
        if 0.02 < mask.mean() < 0.98:
            brighter.append(grey[mask].mean() > grey[~mask].mean())
            bright = grey > otsu_threshold(grey)
            overlaps.append((bright & mask).sum() / (bright | mask).sum())
    assert 0.3 < np.mean(brighter) < 0.7
    assert min(levels) < 60 and max(levels) > 200
    assert np.mean(overlaps) < 0.6


def test_they_serve_masks_points_and_entities(pictures: list[Sample]) -> None:
    for name in ("foreground", "entity_segmentation", "point_segmentation"):
        task = get_task(name)
        assert np.mean([task.serves(sample.annotations[task.kind]) for sample in pictures]) > 0.9
