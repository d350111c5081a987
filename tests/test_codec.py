"""Codec ceilings, and what decoders do with pictures that nobody painted for them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import pearsonr

from diception.annotations import DepthMap, InstanceMasks, Keypoints, NormalMap
from diception.codec import CLEAN, Disturbance, codec_ceilings
from diception.colors import GRID_PALETTE
from diception.datasets.sample import MemoryReader
from diception.datasets.synthetic import held_out_scenes
from diception.evaluation import HeldOut
from diception.metrics import iou
from diception.model.autoencoder import load_autoencoder
from diception.tasks import get_task, known_tasks
from diception.tasks.base import Task
from diception.tasks.depth import DepthEvaluator
from diception.tasks.instances import RecallEvaluator, placed_codes
from diception.tasks.pose import OraclePoseEvaluator, PoseEvaluator, oracle

SIZE = 64


@pytest.fixture(scope="module")
def scenes() -> MemoryReader:
    reader = held_out_scenes(4, SIZE, 1)
    return MemoryReader([reader.read(index) for index in range(len(reader))])


def variants() -> list[Task]:
    return [dataclasses.replace(task, encoding=e) for task in known_tasks() for e in task.encodings]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_noise_is_fixed_by_its_seed_and_has_its_strength_and_grain() -> None:
    grey = np.full((3, 256, 256), 0.5, np.float32)
    for kind, neighbours in (("white", 0.0), ("grid", 0.95)):
        noise = Disturbance(0.06, kind)
        noisy = noise.apply(grey, 1)
        assert np.array_equal(noisy, noise.apply(grey, 1)) and not np.array_equal(noisy, noise.apply(grey, 2))
        assert noisy.min() >= 0 and noisy.max() <= 1 and abs(noisy.mean() - 0.5) < 0.005
        assert pearsonr(noisy[:, :, 1:].ravel(), noisy[:, :, :-1].ravel())[0] == pytest.approx(neighbours, abs=0.05)
    assert Disturbance(0.06).apply(grey, 1).std() == pytest.approx(0.06, rel=0.02)
    assert np.array_equal(CLEAN.apply(grey, 1), grey)


@pytest.mark.parametrize(("strength", "kind"), [(-0.1, "white"), (2.0, "grid"), (0.1, "pink")])
def test_other_noise_is_refused(strength: float, kind: str) -> None:
    with pytest.raises(ValueError, match="noise is"):
        Disturbance(strength, kind)


@pytest.mark.parametrize("task", [task for task in variants() if task.kind in ("depth", "instances", "pose")], ids=str)
def test_a_ceiling_is_finite_and_noise_lowers_it(scenes: MemoryReader, task: Task) -> None:
    examples = HeldOut(task, scenes, 4, SIZE)
    strong = Disturbance(0.5)
    found = codec_ceilings(load_autoencoder("tiny"), task, examples, [CLEAN, strong], keep_worst=2)
    protocols = [evaluator.protocol for evaluator in task.evaluators()]
    assert [(c.disturbance, c.protocol) for c in found] == [(n, p) for n in (CLEAN, strong) for p in protocols]
    clean, noisy = found[0], found[len(protocols)]
    values = clean.metrics[clean.primary], noisy.metrics[noisy.primary]
    assert all(map(math.isfinite, values)) and math.isfinite(clean.metrics["psnr_target"])
    assert values[0] >= values[1] if clean.higher_is_better else values[0] <= values[1]
    ranks = [one.value for one in clean.worst]
    assert ranks == sorted(ranks, reverse=not clean.higher_is_better) and len(ranks) == min(2, len(examples))


@pytest.mark.parametrize("task", variants(), ids=str)
@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99), flat=st.booleans())
def test_any_picture_is_read(task: Task, height: int, width: int, seed: int, flat: bool) -> None:
    rgb = generator(seed).random((3, height, width), np.float32)
    rgb = np.broadcast_to(rgb[:, :1, :1], rgb.shape).copy() if flat else rgb
    before = rgb.copy()
    found = task.decode(rgb)
    assert found.size == (height, width) and np.array_equal(rgb, before)
    assert task.visualize(found).shape == (height, width, 3)
    if not isinstance(found, DepthMap | InstanceMasks):
        task.evaluator().update(found, found)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 26), st.integers(0, 999), st.sampled_from(["palette", "placed"]))
def test_squares_in_palette_colours_come_back(count: int, seed: int, encoding: str) -> None:
    places = generator(seed).permutation(36)[:count]
    masks = np.zeros((count, 96, 96), bool)
    for mask, place in zip(masks, places, strict=True):
        row, column = divmod(int(place), 6)
        mask[16 * row + 2 : 16 * row + 14, 16 * column + 2 : 16 * column + 14] = True
    task = dataclasses.replace(get_task("entity_segmentation"), encoding=encoding)
    truth = InstanceMasks(masks, ("thing",) * count)
    found = task.decode(task.encode(truth, generator(seed)).rgb)
    flipped = task.decode(task.encode(truth.hflip(), generator(seed)).rgb).hflip()
    for back in (found, flipped):
        assert isinstance(back, InstanceMasks) and len(back) == count
        for mask in masks:  # the median takes the corners' pixels
            assert max(iou(one, mask) for one in back.masks) > 0.95


def test_two_hundred_objects_and_one_of_a_pixel() -> None:
    masks = np.zeros((201, 256, 256), bool)
    for index, mask in enumerate(masks[:200]):
        row, column = divmod(index, 15)
        mask[17 * row : 17 * row + 14, 17 * column : 17 * column + 14] = True
    masks[200, 254, 254] = True
    for encoding in ("palette", "placed", "position", "random"):
        task = dataclasses.replace(get_task("entity_segmentation"), encoding=encoding)
        found = task.decode(task.encode(InstanceMasks(masks, ("",) * 201), generator()).rgb)
        assert isinstance(found, InstanceMasks) and 1 <= len(found) <= 201
        if encoding in ("palette", "placed"):  # all 26 colours are there, so every piece is an object; a pixel is noise
            assert len(found) == 200


def test_from_as_many_objects_as_colours_on_those_in_pieces_keep_a_colour_of_their_own() -> None:
    squares = np.zeros((53, 256, 256), bool)
    for index, square in enumerate(squares):
        row, column = divmod(index, 8)
        square[32 * row + 4 : 32 * row + 24, 32 * column + 4 : 32 * column + 24] = True
    for single in (13, 27):  # with 13 objects in two pieces: as many as the palette's colours, and more
        masks = np.concatenate([squares[:single], squares[single : single + 13] | squares[single + 13 : single + 26]])
        task = dataclasses.replace(get_task("entity_segmentation"), encoding="palette")
        found = task.decode(task.encode(InstanceMasks(masks, ("",) * len(masks)), generator()).rgb)
        assert isinstance(found, InstanceMasks) and len(found) == len(masks)
        assert all(max(iou(one, mask) for one in found.masks) > 0.95 for mask in masks)


@pytest.mark.parametrize("encoding", ["palette", "placed"])
def test_one_object_in_shreds_does_not_fuse_the_others(encoding: str) -> None:
    masks = np.zeros((41, 256, 256), bool)
    for index, square in enumerate(masks[:40]):
        row, column = divmod(index, 8)
        square[32 * row + 4 : 32 * row + 24, 32 * column + 4 : 32 * column + 24] = True
    masks[40, 180:250:3, 4:250:3] = True
    task = dataclasses.replace(get_task("entity_segmentation"), encoding=encoding)
    found = task.decode(task.encode(InstanceMasks(masks, ("",) * 41), generator()).rgb)
    assert isinstance(found, InstanceMasks) and len(found) >= 40
    assert all(max(iou(one, mask) for one in found.masks) > 0.95 for mask in masks[:40])


def test_placed_colours_have_one_right_answer_near_that_of_their_place() -> None:
    masks = np.zeros((3, 90, 90), bool)
    masks[0, 2:12, 2:12] = masks[1, 75:85, 2:12] = masks[2, 5:85, 40:85] = True
    colors = GRID_PALETTE[placed_codes(masks, generator(0))]
    assert np.array_equal(colors[1:], [[0, 1, 0], [0.5, 0.5, 1]]), "x, y and size, rounded"
    assert np.abs(colors[0]).sum() == 0.5, "black is not a colour: its nearest"
    order = [2, 0, 1]
    assert np.array_equal(GRID_PALETTE[placed_codes(masks[order], generator(1))], colors[order])
    twins = np.repeat(masks[2:], 2, axis=0)
    assert len(set(placed_codes(twins, generator()))) == 2


def depth_of(values: NDArray) -> DepthMap:
    return DepthMap(np.asarray(values, np.float32))


def test_depth_is_fitted_in_the_space_of_the_prediction() -> None:
    truth = depth_of(generator().uniform(1, 20, (16, 16)))
    spaces = {"depth": truth.values, "disparity": 1 / truth.values, "log": np.log(truth.values)}
    for space, values in spaces.items():
        evaluator = DepthEvaluator(space)  # type: ignore[arg-type]
        evaluator.update(DepthMap(3 * values + 0.5, space), truth)  # type: ignore[arg-type]
        assert evaluator.compute()["abs_rel"] < 1e-4 and evaluator.compute()["delta3"] == 1
        other = next(name for name in spaces if name != space)
        with pytest.raises(ValueError, match=f"in {space}, this one is in {other}"):
            evaluator.update(DepthMap(values, other), truth)  # type: ignore[arg-type]


def test_smoothing_takes_noise_off_and_leaves_what_is_clean() -> None:
    ramp = np.linspace(0.5, 1.0, 256, dtype=np.float32)[None].repeat(256, axis=0)
    ramp[80:160, 80:160] += 0.8  # a box in front
    task, truth = get_task("depth"), depth_of(1 / ramp)
    clean = task.encode(truth, generator()).rgb
    errors = {}
    for noise in (CLEAN, Disturbance(0.06), Disturbance(0.06, "grid")):
        painted = noise.apply(clean, 3)
        found = task.decode(painted)
        assert isinstance(found, DepthMap)
        errors[noise] = np.abs(found.values - clean[0]).mean(), np.abs(painted.mean(axis=0) - clean[0]).mean()
    assert errors[CLEAN][0] < 1e-6
    for noise, (after, before) in errors.items():
        assert after < 0.6 * before or noise == CLEAN


def test_noisy_normals_are_smoothed_and_keep_length_one() -> None:
    vectors = np.zeros((3, 128, 128), np.float32)
    vectors[2, :, :64], vectors[0, :, 64:] = 1, 1
    task, truth = get_task("normal"), NormalMap(vectors)
    noisy = Disturbance(0.06).apply(task.encode(truth, generator()).rgb, 5)
    found = task.decode(noisy)
    assert isinstance(found, NormalMap)
    np.testing.assert_allclose(np.linalg.norm(found.normals, axis=0), 1, atol=1e-5)
    plain = 2 * noisy - 1
    plain /= np.linalg.norm(plain, axis=0)
    errors = [np.degrees(np.arccos((n * vectors).sum(axis=0).clip(-1, 1))).mean() for n in (found.normals, plain)]
    assert errors[0] < 0.4 * errors[1]


def test_where_a_model_paints_the_mean_of_answers_the_rest_is_not_smoothed() -> None:
    vectors = np.zeros((3, 128, 128), np.float32)
    tilted = np.arange(128) // 16 % 2 == 1
    vectors[0], vectors[2] = np.sin(np.pi / 6) * tilted, np.where(tilted, np.cos(np.pi / 6), 1)
    undecided = np.arange(128) >= 80
    found = get_task("normal").decode((vectors * np.where(undecided, 0.7, 1) + 1) / 2)
    assert isinstance(found, NormalMap)
    angles = np.degrees(np.arccos((found.normals * vectors).sum(axis=0).clip(-1, 1)))
    assert angles[:, ~undecided].mean() < 4


def person(left: float, top: float, side: float) -> NDArray[np.float32]:
    joints = np.zeros((17, 3), np.float32)
    joints[:, 0] = left + side * (np.arange(17) % 5) / 5
    joints[:, 1] = top + side * (np.arange(17) // 5) / 4
    joints[:, 2] = 2
    return joints


def test_the_oracle_names_what_was_found_and_invents_nothing() -> None:
    people = np.stack([person(10, 10, 60), person(120, 30, 80)])
    truth = Keypoints(people, (200, 220), np.array([3600, 6400], np.float32))
    found = people.reshape(-1, 3)[generator().permutation(34)][:30]
    untyped = np.zeros((30, 17, 3), np.float32)
    untyped[:, 0] = found
    prediction = Keypoints(untyped, truth.size, np.ones(30, np.float32), np.ones(30, np.float32))
    named = oracle(prediction, truth)
    shown = named.people[named.visible][:, :2]
    assert len(shown) == 30 and {tuple(p) for p in shown} == {tuple(p) for p in found[:, :2]}
    honest, helped = PoseEvaluator(), OraclePoseEvaluator()
    for evaluator in (honest, helped):
        evaluator.update(prediction, truth)
    assert helped.compute()["ap"] > 0.3 > honest.compute()["ap"] and helped.protocol != honest.protocol
    nobody = Keypoints(np.zeros((0, 17, 3), np.float32), truth.size, np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert not oracle(nobody, truth).visible.any()


def test_panoptic_quality_of_a_case_done_by_hand() -> None:
    masks = np.zeros((3, 20, 20), bool)
    masks[0, :10, :10], masks[1, 10:, :10], masks[2, :, 15:] = True, True, True
    truth = InstanceMasks(masks, ("",) * 3)
    half = masks.copy()
    half[0, :2, :10] = False  # IoU .8
    half[2] = False
    half[2, :4, 15:] = True  # IoU .2: not a match
    evaluator = RecallEvaluator()
    evaluator.update(InstanceMasks(half, ("",) * 3, np.ones(3, np.float32)), truth)
    assert evaluator.compute()["pq"] == pytest.approx((0.8 + 1.0) / 3)
