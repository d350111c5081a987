"""Annotations: bytes and files give them back, geometry is exact and has the inverses it should have."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from diception.annotations import (
    COCO_FLIP,
    COCO_KEYPOINTS,
    KINDS,
    Annotation,
    BinaryMask,
    DepthMap,
    InstanceMasks,
    Keypoints,
    LabelMap,
    NormalMap,
    RGBImage,
    load,
    save,
)

SIZE = (20, 26)
CROWD = np.array([[3.5, 2, 8, 6, 40, 1]])


def make(kind: str, seed: int = 0) -> Annotation:
    """A random annotation with invalid parts."""
    rng = np.random.default_rng(seed)
    hole = rng.random(SIZE) < 0.2
    normals = rng.normal(size=(3, *SIZE))
    people = np.concatenate([rng.uniform(1, 19, (3, 17, 2)), rng.integers(0, 3, (3, 17, 1))], axis=2)
    people[people[..., 2] == 0] = 0
    return {
        "depth": lambda: DepthMap(np.where(hole, 0, rng.uniform(0.5, 90, SIZE).astype(np.float16))),
        "normal": lambda: NormalMap(np.where(hole, 0, normals / np.linalg.norm(normals, axis=0))),
        "mask": lambda: BinaryMask(hole),
        "instances": lambda: InstanceMasks(rng.random((3, *SIZE)) < 0.4, ("a", "", "b"), np.array([0.5, 1, 0.25])),
        "pose": lambda: Keypoints(people, SIZE, np.array([9, 80.5, 300]), np.array([0.5, 1, 0]), CROWD),
        "labels": lambda: LabelMap(rng.integers(0, 900, SIZE), ()),
        "image": lambda: RGBImage(rng.integers(0, 256, (3, *SIZE)) / 255),
    }[kind]()


@pytest.fixture(params=KINDS)
def annotation(request: pytest.FixtureRequest) -> Annotation:
    return make(request.param)


def same(one: Annotation, other: Annotation, tolerance: float = 1e-3) -> bool:
    return one.size == other.size and np.allclose(one.to_array(), other.to_array(), atol=tolerance, equal_nan=True)


def test_bytes_are_read_back_and_stable(annotation: Annotation) -> None:
    data = annotation.to_bytes()
    again = type(annotation).from_bytes(data)
    # Normals have 8 bits a component.
    assert same(annotation, again, 0.004 if annotation.kind == "normal" else 1e-3)
    assert again.to_bytes() == data


def test_files_are_read_back(annotation: Annotation, tmp_path) -> None:
    path = tmp_path / f"a.{annotation.suffix}"
    save(annotation, path)
    assert same(load(annotation.kind, path), annotation, 0.004)


def test_suffixes_tell_kinds_apart() -> None:
    assert len({cls.suffix for cls in KINDS.values()}) == len(KINDS)


def test_flip_is_its_own_inverse(annotation: Annotation) -> None:
    assert same(annotation.hflip().hflip(), annotation)
    assert not same(annotation.hflip(), annotation)


def test_quarter_turns_are_a_group_with_the_mirror(annotation: Annotation) -> None:
    once = annotation.turn()
    assert once.size == SIZE[::-1] and not same(once.turn(), annotation)
    assert same(once.turn().turn().turn(), annotation)
    # A mirror turned is mirrored back by three turns the other way; left and right joints change twice.
    assert same(once.hflip(), annotation.hflip().turn().turn().turn())


def test_what_points_right_points_up_after_a_turn() -> None:
    normals = np.zeros((3, 2, 3), np.float32)
    normals[0] = 1
    assert np.array_equal(NormalMap(normals).turn().normals[:, 0, 0], [0, 1, 0])
    depth = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    assert DepthMap(depth).turn().values.tolist() == [[3, 6], [2, 5], [1, 4]]
    people = np.zeros((1, 17, 3), np.float32)
    people[0, 4] = 2.5, 0.5, 2
    boxes = np.array([[1, 0, 2, 1, 2, 0]], np.float32)
    turned = Keypoints(people, (2, 3), np.ones(1), ignored=boxes).turn()
    assert turned.people[0, 4].tolist() == [0.5, 0.5, 2] and turned.people[0, 3].tolist() == [0, 0, 0]
    assert turned.ignored[0].tolist() == [0, 0, 1, 2, 2, 0]


def test_resize_to_the_same_size_changes_nothing(annotation: Annotation) -> None:
    assert same(annotation.resize(*SIZE), annotation)


def test_nearest_up_and_down_is_the_identity(annotation: Annotation) -> None:
    assert same(annotation.resize(3 * SIZE[0], 3 * SIZE[1]).resize(*SIZE), annotation)


def test_nearest_takes_the_pixel_under_the_centre() -> None:
    labels = LabelMap(np.arange(5)[None].repeat(2, axis=0))
    assert labels.resize(1, 3).labels.tolist() == [[0, 2, 4]]
    assert labels.resize(2, 7).labels[0].tolist() == [int((i + 0.5) * 5 / 7) for i in range(7)]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"pose"}))
def test_crop_is_a_window(kind: str) -> None:
    annotation = make(kind)
    cropped = annotation.crop(3, 5, 11, 13)
    assert cropped.size == (11, 13)
    assert np.array_equal(cropped.to_array(), annotation.to_array()[..., 3:14, 5:18], equal_nan=True)


def test_crop_and_flip_commute(annotation: Annotation) -> None:
    left = annotation.crop(2, 4, 12, 15).hflip()
    assert same(left, annotation.hflip().crop(2, SIZE[1] - 4 - 15, 12, 15))


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 0, 21, 5), (0, 20, 5, 7), (0, 0, 0, 5)])
def test_crop_outside_is_refused(annotation: Annotation, window: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"crop .* leaves size \(20, 26\)"):
        annotation.crop(*window)


def test_depth_says_what_is_valid() -> None:
    values = np.array([[1, 0, np.inf, np.nan, -1, 5]], np.float32)
    assert DepthMap(values).valid.tolist() == [[True, False, False, False, False, True]]
    assert DepthMap(values, "disparity").valid.tolist() == [[True, True, False, False, True, True]]


def test_depth_is_stored_to_half_a_thousandth_and_far_is_invalid() -> None:
    depth = DepthMap(np.geomspace(0.01, 6e4, 40).reshape(4, 10))
    again = DepthMap.from_bytes(depth.to_bytes())
    assert np.abs(again.values / depth.values - 1).max() < 5e-4
    assert not DepthMap.from_bytes(DepthMap(np.full((2, 2), 1e6)).to_bytes()).valid.any()


def test_only_metres_are_stored_but_any_space_is_saved(tmp_path) -> None:
    disparity = DepthMap(np.linspace(0, 1, 6).reshape(2, 3) / 3, "disparity")
    with pytest.raises(ValueError, match="only depth in metres is stored, this is disparity"):
        disparity.to_bytes()
    save(disparity, tmp_path / "d.npy")
    assert np.array_equal(np.load(tmp_path / "d.npy"), disparity.values)


def test_smooth_depth_does_not_mix_with_invalid() -> None:
    values = np.full((8, 8), 4.0)
    values[:, :3] = 0
    up = DepthMap(values).resize(32, 32, smooth=True)
    assert np.allclose(up.values[up.valid], 4)
    assert up.valid[:, 13:].all() and not up.valid[:, :11].any()


def test_smooth_normals_are_unit_and_invalid_stays_invalid() -> None:
    normal = make("normal")
    assert isinstance(normal, NormalMap)
    up = normal.resize(41, 57, smooth=True)
    lengths = np.linalg.norm(up.normals, axis=0)
    assert np.allclose(lengths[up.valid], 1, atol=1e-5)
    assert not NormalMap(np.zeros((3, 4, 4))).resize(9, 9, smooth=True).valid.any()


def test_no_unit_normal_is_stored_as_invalid() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 50, 50))
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 1, 8) / np.sqrt(3)
    for normals in (vectors / np.linalg.norm(vectors, axis=0), corners):
        assert NormalMap.from_bytes(NormalMap(normals).to_bytes()).valid.all()


def test_a_flipped_normal_points_the_other_way_in_x_alone() -> None:
    normal = NormalMap(np.array([0.6, 0, 0.8]).reshape(3, 1, 1).repeat(2, axis=2))
    assert np.allclose(normal.hflip().normals[:, 0, 0], [-0.6, 0, 0.8])


def test_smooth_masks_follow_the_true_edge() -> None:
    rows, columns = np.mgrid[:16, :16] + 0.5
    disc = BinaryMask((rows - 8) ** 2 + (columns - 8) ** 2 < 36)
    big_rows, big_columns = (np.mgrid[:128, :128] + 0.5) / 8
    true = (big_rows - 8) ** 2 + (big_columns - 8) ** 2 < 36
    smooth, hard = disc.resize(128, 128, smooth=True).mask, disc.resize(128, 128).mask
    assert (smooth ^ true).mean() < 0.75 * (hard ^ true).mean()


def test_masks_that_vanish_are_dropped_with_what_belongs_to_them() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :2, :2] = masks[1, 5:, 5:] = masks[2] = True
    instances = InstanceMasks(masks, ("a", "b", "c"), np.array([0.1, 0.2, 0.3]))
    cropped = instances.crop(4, 4, 4, 4)
    assert cropped.categories == ("b", "c") and cropped.scores is not None
    assert np.allclose(cropped.scores, [0.2, 0.3])
    assert len(instances.crop(0, 0, 1, 1).of_category("b")) == 0


def test_no_instance_at_all_is_an_annotation() -> None:
    none = InstanceMasks(np.zeros((0, 6, 7), bool), ())
    assert InstanceMasks.from_bytes(none.to_bytes()).masks.shape == (0, 6, 7)
    assert none.resize(3, 3, smooth=True).size == (3, 3) and none.hflip().crop(0, 0, 2, 2).size == (2, 2)
    assert not none.union().mask.any() and none.of_category("a").size == (6, 7)
    nobody = Keypoints(np.zeros((0, 17, 3)), (6, 7), np.zeros(0))
    assert Keypoints.from_bytes(nobody.to_bytes()).size == (6, 7) and len(nobody.hflip().resize(9, 9)) == 0


def test_union_and_category() -> None:
    instances = make("instances")
    assert isinstance(instances, InstanceMasks)
    assert np.array_equal(instances.union().mask, instances.masks.any(axis=0))
    assert instances.union().category is None and instances.of_category("a").union().category == "a"
    assert np.array_equal(instances.of_category("b").masks, instances.masks[2:])


def test_flip_swaps_left_and_right_joints() -> None:
    for joint, name in enumerate(COCO_KEYPOINTS):
        other = name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert COCO_KEYPOINTS[COCO_FLIP[joint]] == other
    person = np.zeros((1, 17, 3))
    person[0, 5] = (3, 4, 2)  # left shoulder
    flipped = Keypoints(person, (10, 20), np.ones(1)).hflip().people[0]
    assert flipped[6].tolist() == [17, 4, 2] and not flipped[5].any()


def test_joints_outside_a_crop_are_absent_and_empty_people_dropped() -> None:
    people = np.zeros((2, 17, 3))
    people[0, 0], people[0, 1], people[1, 0] = (5, 5, 2), (15, 5, 1), (19, 19, 2)
    cropped = Keypoints(people, (20, 20), np.array([7, 8])).crop(2, 3, 10, 10)
    assert cropped.people.shape == (1, 17, 3) and cropped.areas.tolist() == [7]
    assert cropped.people[0, 0].tolist() == [2, 3, 2] and not cropped.people[0, 1:].any()


def test_joints_and_areas_scale_with_the_picture() -> None:
    pose = make("pose")
    assert isinstance(pose, Keypoints)
    half = pose.resize(10, 52)
    assert np.allclose(half.people[..., 0], 2 * pose.people[..., 0]) and np.allclose(half.areas, pose.areas)
    assert np.allclose(half.people[..., 1], pose.people[..., 1] / 2)


def test_geometry_leaves_the_original_alone(annotation: Annotation) -> None:
    before = annotation.to_array().copy()
    for changed in (annotation.hflip(), annotation.crop(0, 0, 9, 9), annotation.resize(*SIZE)):
        changed.to_array()[...] = 1
    assert np.array_equal(annotation.to_array(), before, equal_nan=True)


def test_fields_beside_the_array_survive_geometry() -> None:
    mask = dataclasses.replace(BinaryMask(np.ones((4, 4), bool)), category="crack")
    assert mask.hflip().crop(0, 0, 2, 2).resize(5, 5).category == "crack"
    assert LabelMap(np.ones((4, 4), int), ("no", "yes")).hflip().resize(2, 2).names == ("no", "yes")
    assert DepthMap(np.ones((4, 4)), "log").crop(0, 0, 2, 2).space == "log"
    masks = InstanceMasks(np.ones((1, 4, 4), bool), ("cat",), None, ("dog",))
    for one in (masks, InstanceMasks.from_bytes(masks.to_bytes())):
        views = (
            one.hflip(),
            one.crop(0, 0, 2, 2),
            one.resize(2, 2),
            one.resize(3, 3, smooth=True),
            one.of_category("cat"),
        )
        assert all(view.unmarked == ("dog",) for view in views)


def test_regions_that_evaluation_ignores_follow_the_geometry() -> None:
    pose = make("pose")
    assert isinstance(pose, Keypoints)
    for one in (pose, Keypoints.from_bytes(pose.to_bytes())):
        assert one.hflip().ignored.tolist() == [[26 - 3.5 - 8, 2, 8, 6, 40, 1]]
        assert one.resize(40, 26).ignored.tolist() == [[3.5, 4, 8, 12, 80, 1]]
        assert one.crop(1, 10, 9, 9).ignored.tolist() == [[-6.5, 1, 8, 6, 40, 1]]
        assert one.crop(9, 0, 9, 26).ignored.shape == (0, 6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DepthMap(np.ones((1, 4, 4))), r"shape \(1, 4, 4\), expected \(H, W\)"),
        (lambda: DepthMap(np.ones((4, 4)), "inches"), "'inches', allowed are depth, disparity, log"),  # type: ignore[arg-type]
        (lambda: NormalMap(np.ones((4, 4, 3))), r"expected \(3, H, W\)"),
        (lambda: InstanceMasks(np.ones((2, 4, 4), bool), ("a",)), "2 masks have 1 categories"),
        (lambda: InstanceMasks(np.ones((1, 4, 4), bool), (7,)), "category 7 is of type int, allowed are texts"),
        (lambda: InstanceMasks.from_bytes(instances_json(3.0)), "category 3.0 is of type float, allowed are texts"),
        (lambda: InstanceMasks.from_bytes(instances_json(None)), "category None is of type NoneType"),
        (lambda: BinaryMask(np.ones((4, 4), bool), ("a", 1)), "category .* is of type tuple"),
        (lambda: Keypoints(np.zeros((1, 16, 3)), (4, 4), np.ones(1)), r"expected \(N, 17, 3\)"),
        (lambda: LabelMap(np.full((2, 2), 70000)).to_bytes(), "70000, allowed is 0 to 65535"),
        (lambda: load("smell", "x"), "'smell' is not known, allowed are depth"),
        (lambda: load("depth", "nowhere.npy"), "nowhere.npy: no such file"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def instances_json(category: object) -> bytes:
    return json.dumps({"size": [1, 1], "instances": [{"rle": "01", "category": category, "score": None}]}).encode()


def test_masks_that_claim_to_be_huge_are_not_decoded() -> None:
    claim = {"rle": "0", "category": "", "score": None}
    for size, count in (
        ([200_000, 200_000], 1),
        ([20_000, 5_000], 41),
        ([0, 5], 1),
        ([200_000, 200_000], 0),
        ([1, 1 << 31], 0),
    ):
        with pytest.raises(ValueError, match="values are read"):
            InstanceMasks.from_bytes(json.dumps({"size": size, "instances": [claim] * count}).encode())
