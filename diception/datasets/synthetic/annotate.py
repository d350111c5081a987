"""The ground truth of a rendered scene: depth, normals, instances, keypoints and a mask."""

import numpy as np
import numpy.typing as npt

from diception.annotations import Annotation, BinaryMask, DepthMap, InstanceMasks, Keypoints, NormalMap
from diception.datasets.synthetic.render import View
from diception.datasets.synthetic.scenes import Scene

MASKS = ("shadow", "nearest", "ground")
SMALLEST = 5e-4  # share of the image; thinner slivers are no instance
FACE_TOLERANCE = 0.07


def annotate(scene: Scene, view: View, size: int, mask: str) -> dict[str, Annotation]:
    """All annotations of a full view of size x size pixels, by kind."""
    surface = view.surface.reshape(size, size)
    owners = np.array([number for number, thing in enumerate(scene.things) for _ in thing.solids], np.int16)
    # SKY (-1) picks the last entry, which is no thing either.
    table = np.concatenate([np.full(len(scene.backdrop), -1), owners, [-1]]).astype(np.int16)
    thing = table[surface]
    depth = np.where(np.isfinite(view.depth), view.depth, 0).reshape(size, size).astype(np.float32)
    normals = (scene.camera.axes @ view.normals).reshape(3, size, size).astype(np.float32)
    counts = np.bincount(thing[thing >= 0], minlength=len(scene.things))
    kept = np.flatnonzero(counts >= max(SMALLEST * size * size, 4))
    masks = thing[None] == kept[:, None, None]
    categories = tuple(scene.things[number].category for number in kept)
    people = [number for number in kept if scene.things[number].figure is not None]
    points = [_keypoints(scene, int(number), surface, thing, depth) for number in people]
    chosen = _mask(mask, view.shadow.reshape(size, size), surface, thing, depth)
    return {
        "depth": DepthMap(depth),
        "normal": NormalMap(normals),
        "instances": InstanceMasks(masks, categories, None),
        "pose": Keypoints(
            people=np.stack(points) if points else np.zeros((0, 17, 3), np.float32),
            size=(size, size),
            areas=counts[people].astype(np.float32),
        ),
        "mask": BinaryMask(chosen, mask),
    }


def _mask(
    name: str,
    shadow: npt.NDArray[np.bool_],
    surface: npt.NDArray[np.int16],
    thing: npt.NDArray[np.int16],
    depth: npt.NDArray[np.float32],
) -> npt.NDArray[np.bool_]:
    """(H, W) bool. shadow: cast on ground and walls; nearest: the thing closest to the camera; ground: in view."""
    if name == "shadow":
        return shadow & (thing < 0)
    if name == "ground":
        return surface == 0
    if name != "nearest":
        raise ValueError(f"unknown mask {name!r}; known: {', '.join(MASKS)}")
    distance = np.where(thing >= 0, depth, np.inf)
    return (thing >= 0) & (thing == thing.flat[distance.argmin()])


def _keypoints(
    scene: Scene,
    number: int,
    surface: npt.NDArray[np.int16],
    thing: npt.NDArray[np.int16],
    depth: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """(17, 3) x, y, visibility of one person: 2 seen, 1 behind another surface, 0 outside the image."""
    figure = scene.things[number].figure
    assert figure is not None
    size = surface.shape[0]
    first = len(scene.backdrop) + sum(len(other.solids) for other in scene.things[:number])
    points = scene.camera.project(figure.joints, size).astype(np.float32)
    result = np.zeros((17, 3), np.float32)
    for joint, (x, y, z) in enumerate(points):
        if not (0 <= x < size and 0 <= y < size and z > 0):
            continue
        at = (int(y), int(x))
        gap = z - depth[at] if depth[at] > 0 else -np.inf
        part = surface[at] - first
        if joint >= 5 and 0 <= part < len(figure.parts) and joint in figure.parts[part].joints:
            seen = True  # the surface of the limb itself, however deep the joint lies along this ray
        elif thing[at] == number:
            seen = gap <= (FACE_TOLERANCE if joint < 5 else figure.radii[joint])
        else:
            seen = gap <= 0  # beside a limb thinner than a pixel
        result[joint] = x, y, 2 if seen else 1
    return result
