"""Tasks: what holds for every one of them, and what each one promises beyond that."""

from __future__ import annotations

import dataclasses
import json
import pickle
import time

import numpy as np
import pytest
from scipy import ndimage

from diception.annotations import (
    Annotation,
    BinaryMask,
    DepthMap,
    InstanceMasks,
    Keypoints,
    LabelMap,
    NormalMap,
    RGBImage,
)
from diception.annotations.keypoints import COCO_FLIP
from diception.colors import nearest_on_path
from diception.tasks import (
    TASK_TYPES,
    Target,
    Task,
    get_task,
    known_tasks,
    register,
    task_for_kind,
    task_from_dict,
)
from diception.tasks.instances import position_colors
from diception.tasks.regions import merge_regions

SIZE = 128
TASKS = {t.name: t for t in known_tasks()} | {n: task_for_kind(n, f"new_{n}") for n in ("labels", "image")}
CASES = [(name, encoding) for name, task in TASKS.items() for encoding in task.encodings]
# Read from what they find in the prediction, so equality with itself needs the painted form.
UNTYPED = ("pose", "released")


def discs(seed: int, count: int) -> np.ndarray:
    """(count, SIZE, SIZE) masks that do not overlap, larger than 100 pixels, one of them cut in two."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(9)[:count]
    rows, columns = np.mgrid[:SIZE, :SIZE]
    radii, shift = rng.uniform(9, 17, count), rng.uniform(-3, 3, (2, count))
    y, x = 22 + 42 * (cells // 3) + shift[0], 22 + 42 * (cells % 3) + shift[1]
    masks = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2 < radii[:, None, None] ** 2
    masks[0] &= np.abs(columns - x[0]) > 2
    return masks


def person(x: float, y: float, height: float) -> np.ndarray:
    """(17, 3) a standing figure with its arms out, seen from the front."""
    left = [
        (0.02, -0.46),
        (0.05, -0.44),
        (0.09, -0.28),
        (0.22, -0.26),
        (0.34, -0.2),
        (0.07, 0.02),
        (0.1, 0.25),
        (0.1, 0.48),
    ]
    joints = np.zeros((17, 3), np.float32)
    joints[0] = (0, -0.42, 2)
    for index, (across, down) in enumerate(left):
        joints[1 + 2 * index], joints[2 + 2 * index] = (across, down, 2), (-across, down, 2)
    return joints * [height, height, 1] + np.array([x, y, 0], np.float32)


def make(kind: str, seed: int = 0) -> Annotation:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, SIZE, SIZE)), (0, 9, 9)) * 20
    hole = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 8) > 0.04
    masks = discs(seed, 5)
    people = np.stack([person(34, 66, 88), person(96, 70, 82)])
    return {
        "depth": lambda: DepthMap(np.where(hole, 0, np.exp(smooth[0]) + 1)),
        "normal": lambda: NormalMap(np.where(hole, 0, smooth / np.linalg.norm(smooth, axis=0))),
        "mask": lambda: BinaryMask(masks[:3].any(axis=0)),
        "instances": lambda: InstanceMasks(masks, ("cat", "dog", "cat", "dog", "cat")),
        "pose": lambda: Keypoints(people, (SIZE, SIZE), np.array([2600, 2000])),
        "labels": lambda: LabelMap(masks[1] + 2 * masks[2] + 5 * masks[3]),
        "image": lambda: RGBImage(rng.random((3, SIZE, SIZE))),
    }[kind]()


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def task(request: pytest.FixtureRequest) -> Task:
    name, encoding = request.param
    return dataclasses.replace(TASKS[name], encoding=encoding)


def encode(task: Task, annotation: Annotation, seed: int = 3) -> Target:
    return task.encode(annotation, np.random.default_rng(seed))


def score(task: Task, pairs: list[tuple[Annotation, Annotation]]) -> float:
    evaluator = task.evaluator()
    for prediction, truth in pairs:
        evaluator.update(prediction, truth)
    return evaluator.compute()[evaluator.primary]


def nearly_perfect(task: Task, value: float, slack: float) -> bool:
    """Within a share `slack` of the best value (errors: of a worst value of 1, normals of 20 degrees)."""
    evaluator = task.evaluator()
    best = (
        score(task, [(make(task.kind), make(task.kind))]) if task.kind == "image" else float(evaluator.higher_is_better)
    )
    unit = {"normal": 20.0}.get(task.kind, max(best, 1.0))
    return abs(value - best) <= slack * unit


def test_a_target_is_what_the_contract_says(task: Task) -> None:
    target = encode(task, make(task.kind))
    assert target.rgb.dtype == np.float32 and target.rgb.shape == (3, SIZE, SIZE)
    assert target.rgb.min() >= 0 and target.rgb.max() <= 1
    assert target.valid.dtype == bool and target.valid.shape == (SIZE, SIZE)
    assert target.points.dtype == np.float32 and target.points.shape == (5, 2) and target.point_mask.shape == (5,)
    assert target.point_mask.any() == task.takes_points and not target.points[~target.point_mask].any()
    assert target.prompt.startswith(task.token)
    assert (target.prompt != task.token) == task.takes_category


def test_encode_then_decode_gives_the_annotation_back(task: Task) -> None:
    if (task.name, task.encoding) == UNTYPED:
        pytest.skip("the released drawing does not say which joint is which")
    pairs = []
    for seed in range(4):
        target = encode(task, make(task.kind, seed), seed)
        pairs.append((task.decode(target.rgb), target.truth))
    assert nearly_perfect(task, score(task, pairs), 0.03)


def test_decoding_bears_noise_and_blur(task: Task) -> None:
    if (task.name, task.encoding) == UNTYPED or task.kind == "image":
        pytest.skip("has no decoder that could")
    rng, pairs = np.random.default_rng(5), []
    for seed in range(4):
        target = encode(task, make(task.kind, seed), seed)
        blurred = ndimage.gaussian_filter(target.rgb, (0, 0.7, 0.7))
        noisy = np.clip(blurred + rng.normal(0, 0.06, blurred.shape), 0, 1).astype(np.float32)
        pairs.append((task.decode(noisy), target.truth))
    assert nearly_perfect(task, score(task, pairs), {"normal": 0.6, "pose": 0.2}.get(task.kind, 0.1))


def test_flip_commutes_with_encode_and_decode(task: Task) -> None:
    if (task.name, task.encoding) == UNTYPED or task.takes_points:
        pytest.skip("untyped joints, or points drawn anew")
    annotation = make(task.kind)
    straight, mirrored = (encode(task, a) for a in (annotation, annotation.hflip()))
    assert straight.prompt == mirrored.prompt
    assert nearly_perfect(task, score(task, [(task.decode(mirrored.rgb).hflip(), straight.truth)]), 0.03)
    flipped = straight.truth.hflip()
    assert np.array_equal(flipped.to_array(), mirrored.truth.to_array(), equal_nan=True)


def test_the_same_seed_gives_the_same_bytes(task: Task) -> None:
    one, other = (encode(task, make(task.kind)) for _ in range(2))
    for field in ("rgb", "valid", "points", "point_mask"):
        assert getattr(one, field).tobytes() == getattr(other, field).tobytes()
    assert one.prompt == other.prompt and one.truth.to_bytes() == other.truth.to_bytes()
    rgb = np.random.default_rng(0).random((3, SIZE, SIZE), np.float32)
    assert np.array_equal(task.decode(rgb).to_array(), task.decode(rgb).to_array())


def test_decode_leaves_its_input_and_encode_its_annotation_alone(task: Task) -> None:
    annotation = make(task.kind)
    before, rgb = annotation.to_array().copy(), encode(task, annotation).rgb
    kept = rgb.copy()
    task.decode(rgb)
    assert np.array_equal(rgb, kept) and np.array_equal(annotation.to_array(), before)


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_decode_reads_any_picture_of_any_size(task: Task, fill: float, size: tuple[int, int]) -> None:
    decoded = task.decode(np.full((3, *size), fill, np.float32))
    assert decoded.size == size and decoded.kind == encode(task, make(task.kind)).truth.kind
    assert task.visualize(decoded).shape == (*size, 3)


def test_truth_against_itself_is_perfect(task: Task) -> None:
    truths = [encode(task, make(task.kind, seed), seed).truth for seed in range(3)]
    as_predicted = [
        DepthMap(
            1 / np.where(t.valid, t.values, 1) if task.encoding != "log" else np.log(np.where(t.valid, t.values, 1)),
            p.space,
        )
        if isinstance(t, DepthMap) and isinstance(p := task.decode(np.zeros((3, 4, 4), np.float32)), DepthMap)
        else t
        for t in truths
    ]
    assert nearly_perfect(task, score(task, list(zip(as_predicted, truths, strict=True))), 1e-4)


def test_two_evaluators_merged_equal_one(task: Task) -> None:
    pairs = []
    for seed in range(4):
        target = encode(task, make(task.kind, seed), seed)
        noise = np.random.default_rng(seed).normal(0, 0.15, target.rgb.shape)
        pairs.append((task.decode(np.clip(target.rgb + noise, 0, 1).astype(np.float32)), target.truth))
    together, first, second = (task.evaluator() for _ in range(3))
    for number, pair in enumerate(pairs):
        together.update(*pair)
        (first, second)[number > 0].update(*pair)
    # Evaluators of other processes arrive pickled.
    first.merge(pickle.loads(pickle.dumps(second)))
    merged = first.compute()
    assert merged.keys() == together.compute().keys() and together.primary in merged
    for name, value in together.compute().items():
        assert np.isclose(merged[name], value, equal_nan=True)
    assert all(np.isnan(v) for v in task.evaluator().compute().values())


def test_baselines_can_be_scored(task: Task) -> None:
    target = encode(task, make(task.kind))
    guesses = task.baselines(np.full((3, SIZE, SIZE), 0.5, np.float32), target)
    assert guesses and all(np.isfinite(score(task, [(guess, target.truth)])) for guess in guesses.values())


def test_a_picture_for_people(task: Task) -> None:
    image = np.full((SIZE, SIZE, 3), 90, np.uint8)
    truth = encode(task, make(task.kind)).truth
    for picture in (task.visualize(truth), task.visualize(truth, image)):
        assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2


def test_a_task_survives_json(task: Task) -> None:
    assert task_from_dict(json.loads(json.dumps(task.as_dict()))) == task


def test_the_registry_refuses_what_it_cannot_tell_apart() -> None:
    depth = get_task("depth")
    with pytest.raises(ValueError, match="depth"):
        register(dataclasses.replace(depth, token="[[other]]"))
    with pytest.raises(ValueError, match="image2depth"):
        register(dataclasses.replace(depth, name="other"))
    with pytest.raises(ValueError, match=r"unknown task 'smell'; known: depth, entity"):
        get_task("smell")
    with pytest.raises(ValueError, match="'fog', allowed are disparity, log, released"):
        dataclasses.replace(depth, encoding="fog")
    with pytest.raises(ValueError, match="'smell'; known: depth"):
        task_from_dict({"type": "smell"})
    with pytest.raises(ValueError, match="no field colour"):
        task_from_dict(depth.as_dict() | {"colour": 1})


def test_the_released_tokens() -> None:
    tokens = {task.name: task.token for task in known_tasks()}
    short = {"point_segmentation": "segmentation", "semantic_segmentation": "semantic", "entity_segmentation": "entity"}
    assert tokens == {name: f"[[image2{short.get(name, name)}]]" for name in tokens}
    assert get_task("semantic_segmentation").prompt("traffic light") == "[[image2semantic]] traffic light"


@pytest.mark.parametrize("name", ["Crack", "a b", "", "depth", "x]]"])
def test_a_new_task_needs_a_free_and_simple_name(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        task_for_kind("mask", name)


def test_every_kind_that_a_folder_may_hold_has_a_task() -> None:
    for kind in ("mask", "labels", "depth", "normal", "pose", "image"):
        new = task_for_kind(kind, "crack_2")
        assert new.kind == kind and new.token == "[[image2crack_2]]" and type(new) is TASK_TYPES[new.type_name]


def test_prompts_by_category_only_where_it_is_taken() -> None:
    with pytest.raises(ValueError, match="needs a category"):
        get_task("semantic_segmentation").prompt()
    with pytest.raises(ValueError, match="takes no category, 'cat' was given"):
        get_task("depth").prompt("cat")


def test_annotations_that_hold_nothing_are_not_served() -> None:
    none = InstanceMasks(np.zeros((0, 8, 8), bool), ())
    nobody = Keypoints(np.zeros((1, 17, 3)), (8, 8), np.ones(1))
    for name in ("point_segmentation", "semantic_segmentation", "entity_segmentation"):
        assert not get_task(name).serves(none)
    assert not get_task("semantic_segmentation").serves(InstanceMasks(np.ones((1, 8, 8), bool), ("",)))
    assert not get_task("pose").serves(nobody)
    assert not get_task("depth").serves(DepthMap(np.zeros((8, 8)))) and not get_task("normal").serves(
        NormalMap(np.zeros((3, 8, 8)))
    )


def test_invalid_pixels_do_not_count() -> None:
    for name in ("depth", "normal"):
        annotation = make(name)
        assert isinstance(annotation, DepthMap | NormalMap)
        target = encode(get_task(name), annotation)
        assert np.array_equal(target.valid, annotation.valid) and not target.rgb[:, ~target.valid].any()


def test_near_is_bright_in_every_depth_encoding() -> None:
    depth = DepthMap(np.geomspace(1, 50, 64)[None].repeat(64, axis=0))
    for encoding in get_task("depth").encodings:
        rgb = encode(dataclasses.replace(get_task("depth"), encoding=encoding), depth).rgb
        steps = np.diff(nearest_on_path(rgb)[None] if encoding == "spectrum" else rgb, axis=2)
        assert (steps <= 1e-6).all() and np.isclose(rgb.max(), 1) and np.isclose(rgb.min(), 0)


def test_depth_is_judged_up_to_scale_and_shift() -> None:
    task, target = get_task("depth"), encode(get_task("depth"), make("depth"))
    decoded = task.decode(target.rgb)
    moved = DepthMap(0.2 + 0.05 * decoded.to_array(), "disparity")
    assert np.isclose(score(task, [(decoded, target.truth)]), score(task, [(moved, target.truth)]), atol=1e-4)


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
    assert gaps.min() > 0.11 and colors.min() >= 0.29 and colors.max() <= 1
    task = get_task("entity_segmentation")
    truth = InstanceMasks(rings, ("", "", ""))
    found = task.decode(encode(task, truth).rgb)
    assert len(found.to_array()) == 3 and score(task, [(found, truth)]) > 0.9


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


def test_a_threshold_is_calibrated_on_what_was_painted() -> None:
    task, rng = get_task("foreground"), np.random.default_rng(0)
    truths = [make("mask", seed) for seed in range(3)]
    dim = [
        np.clip(0.35 * encode(task, t).rgb + rng.normal(0, 0.03, (3, SIZE, SIZE)), 0, 1).astype(np.float32)
        for t in truths
    ]
    fitted = task.calibrated(zip(dim, truths, strict=True))
    assert score(task, [(task.decode(r), t) for r, t in zip(dim, truths, strict=True)]) < 0.1
    assert score(fitted, [(fitted.decode(r), t) for r, t in zip(dim, truths, strict=True)]) > 0.98
    assert task_from_dict(fitted.as_dict()) == fitted
    assert get_task("depth").calibrated(zip(dim, truths, strict=True)) is get_task("depth")


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


@pytest.mark.parametrize("name", ["semantic_segmentation", "point_segmentation"])
def test_a_share_of_samples_may_ask_for_what_is_not_there(name: str) -> None:
    truth = make("instances")
    assert isinstance(truth, InstanceMasks)
    task = dataclasses.replace(TASKS[name], negatives=0.25)
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


def test_far_from_people_a_pose_may_count_less() -> None:
    truth = make("pose")
    task = dataclasses.replace(get_task("pose"), background=0.25)
    target, whole = encode(task, truth), encode(get_task("pose"), truth)
    assert np.array_equal(target.rgb, whole.rgb) and (whole.valid == 1).all()
    assert set(np.unique(target.valid)) == {0.25, 1}
    assert (target.valid[target.rgb.any(axis=0)] == 1).all()
    with pytest.raises(ValueError, match="background is 0"):
        dataclasses.replace(task, background=0.0)


def test_a_label_without_a_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="label 40; allowed: 0 to 12"):
        encode(task_for_kind("labels", "parts"), LabelMap(np.full((8, 8), 40)))
