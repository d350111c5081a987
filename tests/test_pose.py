"""Poses: people are put together again from painted skeletons."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from painted import encode, make

from diception.annotations import Keypoints
from diception.annotations.keypoints import COCO_FLIP
from diception.tasks import get_task


def test_people_are_put_together_again() -> None:
    task, truth = get_task("pose"), make("pose")
    found = task.decode(encode(task, truth).rgb)
    assert isinstance(found, Keypoints) and isinstance(truth, Keypoints) and len(found) == 2
    order = np.argsort(found.people[:, 0, 0])
    gaps = np.linalg.norm(found.people[order, :, :2] - truth.people[..., :2], axis=-1)
    assert (found.people[..., 2] == 2).all() and gaps.max() < 1.5  # a hand of one touches a hand of the other


@pytest.mark.parametrize("size", [128, 500, 1024])
def test_people_are_read_at_any_size(size: int) -> None:
    task, truth = get_task("pose"), make("pose").resize(size, size)
    found = task.decode(encode(task, truth).rgb)
    assert isinstance(found, Keypoints) and isinstance(truth, Keypoints) and len(found) == 2
    order = np.argsort(found.people[:, 0, 0])
    gaps = np.linalg.norm(found.people[order, :, :2] - truth.people[..., :2], axis=-1)
    assert found.visible.all() and gaps.max() < 0.012 * size


@pytest.mark.parametrize("color", [(1, 0, 0), (1, 1, 0), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("encoding", ["typed", "released"])
def test_a_flat_picture_is_read_at_once(color: tuple[float, float, float], encoding: str) -> None:
    flat = np.broadcast_to(np.array(color, np.float32)[:, None, None], (3, 768, 768))
    task = dataclasses.replace(get_task("pose"), encoding=encoding)
    start = time.perf_counter()
    found = task.decode(flat.copy())
    assert isinstance(found, Keypoints) and len(found) <= 200
    assert time.perf_counter() - start < 10


def test_joints_beyond_the_edge_stay_absent() -> None:
    task, truth = get_task("pose"), make("pose")
    cut = truth.crop(0, 0, 76, 128)  # above the knees
    found = task.decode(encode(task, cut).rgb)
    assert isinstance(found, Keypoints) and len(found) == 2
    x, y, seen = found.people[found.visible].T
    assert (x < 128).all() and (y < 76).all() and (found.people[:, 15:, 2] == 0).all()


@pytest.mark.parametrize("turned", [False, True])
def test_joints_that_are_not_painted_are_inferred_and_marked(turned: bool) -> None:
    task, truth = get_task("pose"), make("pose")
    assert isinstance(truth, Keypoints)
    if turned:  # seen from behind: left and right change places, the picture does not
        truth = dataclasses.replace(truth, people=truth.people[:, COCO_FLIP])
    hidden = [3, 15, 16]
    partial = dataclasses.replace(truth, people=truth.people.copy())
    partial.people[:, hidden] = 0
    found = task.decode(encode(task, partial).rgb)
    assert isinstance(found, Keypoints) and len(found) == 2
    order = np.argsort(found.people[:, 0, 0])
    expected = np.sort(truth.people[:, 0, 0])
    assert np.allclose(found.people[order, 0, 0], expected, atol=1)
    people = found.people[order]
    assert (people[:, hidden, 2] == 1).all() and (np.delete(people[..., 2], hidden, axis=1) == 2).all()
    right = truth.people[np.argsort(truth.people[:, 0, 0])]
    gaps = np.linalg.norm(people[..., :2] - right[..., :2], axis=-1)
    assert gaps.max() < 0.12 * 80  # of a height of about 80 pixels


def test_parts_of_a_person_that_no_limb_joins_stay_together() -> None:
    task, truth = get_task("pose"), make("pose").resize(512, 512)
    assert isinstance(truth, Keypoints)
    truth.people[:, [5, 6, 7, 13]] = 0  # no shoulders, no left elbow, no left knee: a face, a body and a hand
    found = task.decode(encode(task, truth).rgb)
    assert isinstance(found, Keypoints) and len(found) == 2
    order = np.argsort(found.people[:, 0, 0])
    seen = found.people[order, :, 2] == 2
    assert np.array_equal(seen, truth.visible)
    gaps = np.linalg.norm(found.people[order, :, :2] - truth.people[..., :2], axis=-1)
    assert gaps[seen].max() < 6


def test_far_from_people_a_pose_may_count_less() -> None:
    truth = make("pose")
    task = dataclasses.replace(get_task("pose"), background=0.25)
    target, whole = encode(task, truth), encode(get_task("pose"), truth)
    assert np.array_equal(target.rgb, whole.rgb) and (whole.valid == 1).all()
    assert set(np.unique(target.valid)) == {0.25, 1}
    assert (target.valid[target.rgb.any(axis=0)] == 1).all()
    with pytest.raises(ValueError, match="background is 0"):
        dataclasses.replace(task, background=0.0)
