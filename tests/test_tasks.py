"""Tasks: what holds for every one of them, and what those of pictures promise beyond that."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
from painted import SIZE, encode, make, score
from scipy import ndimage

from diception.annotations import DepthMap, InstanceMasks, Keypoints, LabelMap, NormalMap
from diception.colors import nearest_on_path
from diception.tasks import TASK_TYPES, Task, get_task, known_tasks, register, task_for_kind, task_from_dict

TASKS = {t.name: t for t in known_tasks()} | {n: task_for_kind(n, f"new_{n}") for n in ("labels", "image")}
CASES = [(name, encoding) for name, task in TASKS.items() for encoding in task.encodings]
# Read from what they find in the prediction, so equality with itself needs the painted form.
UNTYPED = ("pose", "released")


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def task(request: pytest.FixtureRequest) -> Task:
    name, encoding = request.param
    return dataclasses.replace(TASKS[name], encoding=encoding)


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


@pytest.mark.parametrize("name", ["../x", "a/b", "a.b", "", "a\nb"])
def test_names_that_would_leave_a_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not allowed: letters"):
        task_from_dict({"type": "foreground", "name": name, "token": "[[image2x]]"})


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


def test_a_label_without_a_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="label 40; allowed: 0 to 12"):
        encode(task_for_kind("labels", "parts"), LabelMap(np.full((8, 8), 40)))


def test_what_nobody_has_labelled_is_neither_trained_on_nor_scored() -> None:
    task = task_for_kind("labels", "parts")
    labels = np.zeros((8, 8), int)
    labels[:4], labels[:, 6:] = 3, 255
    target = encode(task, LabelMap(labels))
    assert np.array_equal(target.valid, labels != 255) and task.serves(LabelMap(labels))
    wrong = np.where(labels == 255, 5, labels)
    assert score(task, [(LabelMap(wrong), LabelMap(labels))]) == 1
    assert not task.serves(LabelMap(np.full((8, 8), 255)))
    assert task.visualize(LabelMap(labels)).shape == (8, 8, 3)


def test_depth_that_is_not_answered_counts_as_its_mean() -> None:
    task = get_task("depth")
    truth = DepthMap(np.linspace(1, 4, 64, dtype=np.float32).reshape(8, 8))
    whole = 1 / truth.values
    half = np.where(np.arange(64).reshape(8, 8) < 32, np.nan, whole)
    right, missing, none = (DepthMap(np.asarray(v, np.float32), "disparity") for v in (whole, half, whole * np.nan))
    assert score(task, [(right, truth)]) < 1e-3 < 0.1 < score(task, [(missing, truth)])
    assert score(task, [(none, truth)]) == pytest.approx(score(task, [(DepthMap(0 * whole, "disparity"), truth)]))
