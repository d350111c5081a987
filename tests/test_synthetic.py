"""Synthetic scenes: determinism, and ground truth that agrees with geometry worked out another way."""

import os
import time
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, Keypoints, NormalMap
from diception.datasets.sample import Sample
from diception.datasets.synthetic import CATEGORIES, KINDS, MASKS, THERMAL, SyntheticScenes, render_scene
from diception.datasets.synthetic.people import make_figure
from diception.datasets.synthetic.raycast import SHAPES, Plane, Rays, hit_plane, hit_solid, make_capsule, make_solid
from diception.datasets.synthetic.raycast import solid_normals as normals_of
from diception.datasets.synthetic.render import look
from diception.datasets.synthetic.scenes import Scene, make_scene
from diception.datasets.synthetic.thermal import PALETTE

SIZE = 96
EYE = np.eye(3, dtype=np.float32)
TILTED = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0].astype(np.float32)
SAMPLES = [(domain, index) for domain, count in ((1, 6), (2, 6), (THERMAL, 2)) for index in range(count)]


class Truth(NamedTuple):
    """The annotations of a sample by type."""

    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    instances: InstanceMasks
    pose: Keypoints
    mask: BinaryMask


def truth_of(sample: Sample) -> Truth:
    depth, normal, instances, pose, mask = (sample.annotations[kind] for kind in KINDS)
    assert isinstance(depth, DepthMap)
    assert isinstance(normal, NormalMap)
    assert isinstance(instances, InstanceMasks)
    assert isinstance(pose, Keypoints)
    assert isinstance(mask, BinaryMask)
    return Truth(depth.values, normal.normals, instances, pose, mask)


def scene_of(seed: int, index: int, domain: int) -> Scene:
    key = np.array([seed, index], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, domain]))
    return make_scene(generator, 1 if domain == THERMAL else domain)


def same(a: Sample, b: Sample) -> bool:
    return np.array_equal(a.image, b.image) and all(
        a.annotations[kind].to_bytes() == b.annotations[kind].to_bytes() for kind in KINDS
    )


@pytest.mark.parametrize("domain", [1, 2, 4])
def test_a_scene_is_a_function_of_its_seed_and_index(domain: int) -> None:
    first = render_scene(5, 3, SIZE, domain)
    assert same(first, render_scene(5, 3, SIZE, domain))
    assert first.key == render_scene(5, 3, SIZE, domain).key
    for other in (render_scene(5, 4, SIZE, domain), render_scene(6, 3, SIZE, domain)):
        assert not np.array_equal(first.image, other.image)
        assert first.key != other.key


def test_a_data_set_is_its_scenes() -> None:
    scenes = SyntheticScenes(count=4, size=SIZE, domain=2, seed=9)
    assert len(scenes) == 4
    scene = render_scene(9, 2, SIZE, 2)
    assert same(SyntheticScenes(4, SIZE, 2, 9, "shadow")[2], scene) and np.array_equal(scenes[2].image, scene.image)
    assert set(scenes[2].annotations) == set(KINDS) - {"mask"}
    with pytest.raises(IndexError):
        scenes[4]


def test_a_thermal_camera_shows_false_colours() -> None:
    image = render_scene(5, 3, SIZE, THERMAL).image / 255
    ends = np.linspace(0, 1, 101)
    palette = np.stack([np.interp(ends, np.linspace(0, 1, len(PALETTE)), channel) for channel in PALETTE.T], axis=1)
    assert np.abs(image[:, :, None] - palette).sum(axis=-1).min(axis=-1).max() < 0.06


def test_wrong_arguments_name_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="domain 5.*1.*2.*3.*4"):
        render_scene(0, 0, SIZE, 5)
    with pytest.raises(ValueError, match="sky.*shadow"):
        render_scene(0, 0, SIZE, 1, mask="sky")
    with pytest.raises(ValueError, match="-1"):
        render_scene(-1, 0, SIZE)


def test_depth_of_a_known_sphere_and_plane() -> None:
    origin = np.array([[0], [1.5], [0]], np.float32)
    directions = np.array([[0, 0], [0, -0.5], [-1, -1]], np.float32)
    ball = make_solid("sphere", [0, 1.5, -4], [0.5, 0.5, 0.5], EYE)
    index, depth = hit_solid(ball, Rays(origin, directions))
    assert index.tolist() == [0]
    assert depth[0] == pytest.approx(3.5, abs=1e-5)
    ground = hit_plane(Plane(np.array([0, 1, 0], np.float32), 0.0), origin, directions)
    assert np.isinf(ground[0])
    assert ground[1] == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("domain", [1, 2])
def test_ground_depth_is_analytic_in_a_scene(domain: int) -> None:
    camera = scene_of(0, 1, domain).camera
    truth = truth_of(render_scene(0, 1, SIZE, domain, mask="ground"))
    rows, columns = np.nonzero(truth.mask.mask)
    assert rows.size > 100
    x, y = (columns + 0.5) / SIZE - 0.5, 0.5 - (rows + 0.5) / SIZE
    fall = camera.axes[:, 1] @ np.stack([x / camera.focal, y / camera.focal, -np.ones(rows.size)])
    expected = -camera.position[1] / fall
    np.testing.assert_allclose(truth.depth[rows, columns], expected, rtol=1e-4)


def signed_distance(shape: str, p: np.ndarray, detail: float) -> np.ndarray:
    """Below 0 inside the unit shape, above 0 outside (a level set, not a distance)."""
    rho = np.hypot(p[0], p[2])
    if shape == "box":
        return np.abs(p).max(0) - 1
    if shape == "sphere":
        return np.linalg.norm(p, axis=0) - 1
    if shape == "capsule":
        return np.hypot(rho, np.maximum(np.abs(p[1]) - detail, 0)) - 1
    if shape == "cone":
        return np.maximum(np.maximum(rho - (1 - p[1]) / 2, -1 - p[1]), p[1] - 1)
    tube = np.maximum(rho - 1, np.abs(p[1]) - 1)
    return np.maximum(tube, detail - rho) if shape == "ring" else tube


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_stop_where_marching_in_small_steps_enters_the_solid(shape: str) -> None:
    if shape == "capsule":
        solid = make_capsule(np.array([0.2, 0.1, -4], np.float32), np.array([-0.3, 0.6, -3.6], np.float32), 0.2)
    else:
        solid = make_solid(shape, [0.1, 0.2, -4], [0.5, 0.4, 0.5], TILTED, 0.6)
    generator = np.random.default_rng(0)
    directions = np.concatenate([generator.uniform(-0.15, 0.2, (2, 300)), -np.ones((1, 300))]).astype(np.float32)
    origin = np.zeros((3, 1), np.float32)
    index, depth = hit_solid(solid, Rays(origin, directions))
    found = np.full(300, np.inf)
    found[index] = depth
    steps = np.arange(2.5, 5.5, 2e-3)
    points = directions[:, :, None] * steps - solid.centre[:, None, None]
    inside = signed_distance(shape, np.einsum("ij,jnt->int", solid.to_local.astype(float), points), solid.detail) < 0
    marched = np.where(inside.any(1), steps[inside.argmax(1)], np.inf)
    agree = (found == marched) | (np.abs(np.nan_to_num(found) - np.nan_to_num(marched)) < 3e-3)
    assert np.isfinite(found).sum() >= 50
    assert agree.mean() > 0.98  # grazing rays may slip between two steps

    hit = np.isfinite(found)
    surface = directions[:, hit] * found[hit].astype(np.float32)
    outward = normals_of(solid, surface)
    for step, sign in ((2e-3, 1), (-2e-3, -1)):
        local = solid.to_local @ (surface + step * outward - solid.centre[:, None])
        assert (np.sign(signed_distance(shape, local, solid.detail)) == sign).mean() > 0.98


@pytest.mark.parametrize(("domain", "index"), SAMPLES)
def test_normals_agree_with_differences_of_depth(domain: int, index: int) -> None:
    """The cross product of steps between back-projected neighbours, on smooth surfaces away from borders."""
    size = 192
    camera = scene_of(1, index, domain).camera
    truth = truth_of(render_scene(1, index, size, domain))
    depth, normals = truth.depth, truth.normals
    rows, columns = np.mgrid[:size, :size] + 0.5
    x, y = (columns / size - 0.5) / camera.focal, (0.5 - rows / size) / camera.focal
    points = np.stack([x * depth, y * depth, -depth])
    right, down = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    expected = np.cross(down, right, axis=0)
    expected /= np.maximum(np.linalg.norm(expected, axis=0), 1e-12)
    varies = [ndimage.maximum_filter(plane, 3) - ndimage.minimum_filter(plane, 3) for plane in normals]
    smooth = (np.max(varies, axis=0) < 0.15) & (ndimage.minimum_filter(depth, 3) > 0)
    smooth &= ndimage.maximum_filter(depth, 3) < 1.1 * ndimage.minimum_filter(depth, 3)
    cosine = (expected * normals[:, 1:-1, 1:-1]).sum(0)[smooth[1:-1, 1:-1]]
    assert smooth.mean() > 0.3
    assert np.median(cosine) > 0.9999
    assert (cosine > 0.99).mean() > 0.985


@pytest.mark.parametrize(("domain", "index"), SAMPLES)
def test_annotations_are_consistent(domain: int, index: int) -> None:
    sample = render_scene(2, index, SIZE, domain)
    depth, normals, instances, _, mask = truth_of(sample)
    assert sample.image.shape == (SIZE, SIZE, 3)
    assert sample.image.dtype == np.uint8
    assert depth.dtype == normals.dtype == np.float32
    length = np.linalg.norm(normals, axis=0)
    np.testing.assert_allclose(length, depth > 0, atol=1e-5)
    assert domain == 2 or (depth > 0).all()
    assert instances.masks.shape == (len(instances.categories), SIZE, SIZE)
    assert (instances.masks.sum(0) <= 1).all()
    assert instances.masks.any((1, 2)).all()
    assert set(instances.categories) <= set(CATEGORIES)
    assert (depth[instances.masks.any(0)] > 0).all()
    assert not (mask.mask & instances.masks.any(0)).any()


@pytest.mark.parametrize(("domain", "index"), SAMPLES)
def test_seen_joints_lie_on_people(domain: int, index: int) -> None:
    _, _, instances, pose, _ = truth_of(render_scene(3, index, SIZE, domain))
    masks = instances.of_category("person").masks
    assert len(pose.people) == len(masks)
    np.testing.assert_array_equal(pose.areas, masks.sum((1, 2)))
    for person, mask in zip(pose.people, masks, strict=True):
        near = ndimage.binary_dilation(mask, np.ones((3, 3)))  # a far limb can be thinner than a pixel
        seen = person[person[:, 2] == 2]
        assert ((seen[:, :2] >= 0) & (seen[:, :2] < SIZE)).all()
        columns, rows = seen[:, :2].astype(int).T
        assert near[rows, columns].all()
        assert (person[person[:, 2] == 0] == 0).all()


def test_left_is_on_the_right_of_the_image_when_a_person_faces_the_viewer() -> None:
    generator = np.random.default_rng(0)
    front = make_figure(generator, (0.0, -4.0), 0.0, 1.75, lively=0.0).joints
    back = make_figure(generator, (0.0, -4.0), np.pi, 1.75, lively=0.0).joints
    for left in (1, 3, 5, 11):
        assert front[left, 0] > front[left + 1, 0]
        assert back[left, 0] < back[left + 1, 0]
    assert front[0, 2] > front[3, 2]
    assert back[0, 2] < back[3, 2]
    assert front[:, 1].argmax() < 5
    assert front[:, 1].min() > 0


@pytest.mark.parametrize("domain", [1, 2])
def test_masks_mark_what_they_say(domain: int) -> None:
    for index in range(4):
        views = {mask: render_scene(4, index, SIZE, domain, mask) for mask in MASKS}
        assert all(np.array_equal(view.image, views["shadow"].image) for view in views.values())
        assert [truth_of(view).mask.category for view in views.values()] == list(MASKS)
        depth, _, instances, _, mask = truth_of(views["nearest"])
        distances = [depth[thing].min() for thing in instances.masks]
        assert np.array_equal(mask.mask, instances.masks[int(np.argmin(distances))])


def test_shadowed_ground_meets_a_thing_towards_the_light() -> None:
    """Found by marching from points of the ground, where lit points meet nothing."""
    scene = scene_of(4, 0, 1)
    rows, columns = np.mgrid[:SIZE, :SIZE].reshape(2, -1).astype(np.float32) + np.float32(0.5)
    pixels = np.stack([columns, rows])
    view = look(scene, pixels, SIZE)
    ground = np.flatnonzero((view.surface == 0) & (view.depth < 8))[::5]
    points = scene.camera.position[:, None] + scene.camera.rays(pixels, SIZE)[:, ground] * view.depth[ground]
    steps = np.arange(0.01, 4.0, 0.01, dtype=np.float32)
    blocked = np.zeros(ground.size, bool)
    along = points[:, :, None] + scene.light[:, None, None] * steps
    for thing in scene.things:
        for solid in thing.solids:
            local = np.tensordot(solid.to_local, along - solid.centre[:, None, None], 1)
            blocked |= (signed_distance(solid.shape, local, solid.detail) < 0).any(1)
    assert blocked.any()
    assert (blocked == view.shadow[ground]).mean() > 0.99


def test_pixels_do_not_depend_on_which_others_are_cast() -> None:
    scene = scene_of(6, 0, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE].reshape(2, -1).astype(np.float32) + np.float32(0.5)
    whole, part = look(scene, np.stack([columns, rows]), SIZE), look(scene, np.stack([columns, rows])[:, ::7], SIZE)
    assert (whole.surface[::7] == part.surface).mean() > 0.999
    same_surface = whole.surface[::7] == part.surface
    np.testing.assert_allclose(whole.depth[::7][same_surface], part.depth[same_surface], rtol=1e-4)


def test_rendering_takes_well_under_a_second() -> None:
    """Prints the rate; the bound only catches a change of algorithm, not a busy machine."""
    start = time.perf_counter()
    for index in range(10):
        render_scene(8, index, 128, 1 + index % 2)
    spent = (time.perf_counter() - start) / 10
    print(f"{1 / spent:.0f} scenes/s on one of {os.cpu_count()} cores")
    assert spent < 1.0
