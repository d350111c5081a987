"""Tasks of masks: points, categories, and objects told apart by their colours."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from painted import SIZE, encode, make, score
from scipy.spatial.distance import pdist

from diception.annotations import InstanceMasks
from diception.tasks import get_task, instances
from diception.tasks.instances import position_colors
from diception.tasks.regions import merge_regions


def test_points_lie_inside_the_mask_and_their_number_can_be_fixed() -> None:
    task = get_task("point_segmentation")
    for seed in range(20):
        target = encode(task, make("instances"), seed)
        columns, rows = (target.points[target.point_mask] * SIZE).astype(int).T
        assert target.truth.to_array()[rows, columns].all()
    one = dataclasses.replace(task, num_points=1)  # pyright: ignore[reportCallIssue]
    assert encode(one, make("instances")).point_mask.sum() == 1
    with pytest.raises(ValueError, match="num_points is 6"):
        dataclasses.replace(task, num_points=6)  # pyright: ignore[reportCallIssue]


def test_all_instances_and_categories_get_their_turn() -> None:
    instances = make("instances")
    drawn = {encode(get_task("point_segmentation"), instances, seed).truth.to_bytes() for seed in range(60)}
    prompts = {encode(get_task("semantic_segmentation"), instances, seed).prompt for seed in range(20)}
    assert len(drawn) == 5 and prompts == {"[[image2semantic]] cat", "[[image2semantic]] dog"}


def test_objects_with_one_centre_keep_two_colours() -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    distance = np.hypot(rows, columns)
    rings = np.stack([(distance < 50) & (distance >= 44), (distance < 40) & (distance >= 35), distance < 12])
    colors = position_colors(rings)
    gaps = np.linalg.norm(colors[:, None] - colors[None], axis=-1)[~np.eye(3, dtype=bool)]
    assert gaps.min() > 0.27 and colors.min() >= 0.29 and colors.max() <= 1
    task = get_task("entity_segmentation")
    truth = InstanceMasks(rings, ("", "", ""))
    found = task.decode(encode(task, truth).rgb)
    assert len(found.to_array()) == 3 and score(task, [(found, truth)]) > 0.9


def lattice(rows: int, columns: int, size: int = SIZE) -> np.ndarray:
    """(rows * columns, size, size) masks that tile the picture."""
    y, x = np.mgrid[:size, :size]
    cell = y * rows // size * columns + x * columns // size
    return cell == np.arange(rows * columns)[:, None, None]


def nearest(colors: np.ndarray) -> float:
    """Distance of the two that are most alike."""
    return float(pdist(colors).min())


LATTICES = [lattice(1, 5), lattice(1, 10), lattice(6, 6), lattice(8, 8), lattice(12, 12), lattice(20, 20, 20)]


@pytest.mark.parametrize("masks", LATTICES)
def test_colours_of_place_do_not_depend_on_the_order_and_part_what_touches(masks: np.ndarray) -> None:
    colors, order = position_colors(masks), np.random.default_rng(0).permutation(len(masks))
    assert np.allclose(position_colors(masks[order]), colors[order], atol=1e-3)
    assert colors.min() >= 0.29 and colors.max() <= 1
    assert nearest(colors) > 1.15 * nearest(instances._places(masks) * 0.7), "farther apart than places alone"


def test_two_that_touch_are_parted_along_the_line_between_them() -> None:
    masks = np.zeros((2, SIZE, SIZE), bool)
    masks[0, 30:90, 56:64], masks[1, 30:90, 64:72] = True, True
    left, right = position_colors(masks)
    assert right[0] - left[0] > 0.27 and np.allclose(left[1:], right[1:], atol=0.03)


@pytest.mark.parametrize("side", [6, 8])
def test_every_cell_of_a_lattice_is_read_back(side: int) -> None:
    cells = InstanceMasks(lattice(side, side), ("",) * side**2)
    task = get_task("entity_segmentation")
    assert score(task, [(task.decode(encode(task, cells).rgb), cells)]) > 0.99


def test_touching_objects_are_told_apart_by_colour() -> None:
    masks = np.zeros((2, SIZE, SIZE), bool)
    masks[0, 30:100, 20:64], masks[1, 30:100, 64:108] = True, True
    truth, rng = InstanceMasks(masks, ("", "")), np.random.default_rng(0)
    for encoding in get_task("entity_segmentation").encodings:
        task = dataclasses.replace(get_task("entity_segmentation"), encoding=encoding)
        noisy = encode(task, truth).rgb + rng.normal(0, 0.06, (3, SIZE, SIZE))
        assert score(task, [(task.decode(np.clip(noisy, 0, 1).astype(np.float32)), truth)]) > 0.95


def test_the_baseline_told_the_foreground_merges_what_touches() -> None:
    masks = np.zeros((2, SIZE, SIZE), bool)
    masks[0, 30:100, 20:64], masks[1, 30:100, 64:108] = True, True
    task = get_task("entity_segmentation")
    guesses = task.baselines(np.zeros((3, SIZE, SIZE), np.float32), encode(task, InstanceMasks(masks, ("", ""))))
    assert [len(guess.to_array()) for name, guess in guesses.items() if "foreground" in name] == [1]


def test_merging_stops_where_regions_differ_and_covers_the_part() -> None:
    rgb = np.zeros((3, 30, 40), np.float32)
    rgb[0, :, 20:], rgb[1, 15:] = 0.5, 0.5
    part = np.ones((30, 40), bool)
    part[0, 0] = False
    noisy = rgb + np.random.default_rng(0).normal(0, 0.05, rgb.shape).astype(np.float32)
    regions, colors, counts = merge_regions(noisy, part, 2.0, 0.13)
    assert sorted(counts.tolist()) == [299, 300, 300, 300] and regions[0, 0] == -1
    assert np.abs(colors[regions[part]].T - rgb[:, part]).max() < 0.02


@pytest.mark.parametrize("name", ["semantic_segmentation", "point_segmentation"])
def test_a_share_of_samples_may_ask_for_what_is_not_there(name: str) -> None:
    truth = make("instances")
    assert isinstance(truth, InstanceMasks)
    task = dataclasses.replace(get_task(name), negatives=0.25)
    targets = [encode(task, truth, seed) for seed in range(400)]
    empty = [target for target in targets if not target.rgb.any()]
    assert 70 < len(empty) < 130  # 100 with a deviation of 9
    for target in empty:
        assert not target.truth.to_array().any() and target.valid.all()
        assert not any(target.prompt.endswith(category) for category in truth.categories)
        columns, rows = (target.points[target.point_mask] * SIZE).astype(int).T
        assert not truth.masks[:, rows, columns].any()
    assert all(encode(task.measured(), truth, seed).rgb.any() for seed in range(100))
    few = dataclasses.replace(get_task("semantic_segmentation"), negatives=1.0, vocabulary=("cat", "dog", "owl"))
    assert encode(few, truth).prompt == "[[image2semantic]] owl"
    crowded = dataclasses.replace(few, vocabulary=("cat", "dog", "owl", "ant"))
    assert {encode(crowded, dataclasses.replace(truth, unmarked=("owl",)), s).prompt for s in range(20)} == {
        "[[image2semantic]] ant"
    }
    with pytest.raises(ValueError, match=r"negatives is 1\.5"):
        dataclasses.replace(task, negatives=1.5)


def test_a_category_with_a_crowd_is_not_asked_for() -> None:
    task = get_task("semantic_segmentation")
    masks = np.zeros((2, 16, 16), bool)
    masks[0, :4], masks[1, 8:] = True, True
    truth = InstanceMasks(masks, ("person", "cup"), None, ("person",))
    assert {encode(task, truth, seed).prompt for seed in range(20)} == {task.prompt("cup")}
    assert not task.serves(truth.of_category("person"))
