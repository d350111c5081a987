"""Finding joints in painted skeletons by their colour."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from diception.annotations import Keypoints
from diception.tasks.base import Array
from diception.tasks.decoding import DECODING
from diception.tasks.people import Joint, completed, join_people, mass_centre, to_keypoints
from diception.tasks.skeletons import JOINT_COLORS, LIMB_COLORS, RED

NO_JOINT = np.concatenate([np.zeros((1, 3), np.float32), LIMB_COLORS])
"""(4, 3): what else is painted."""
LEVELS = 32
"""Values of a channel that are told apart when a colour is looked up."""


def read_typed(rgb: Array) -> Keypoints:
    """People of a painting (3, H, W): joints by colour, joined along painted limbs.

    Joints with a colour of their own have visibility 2. The others of a person, which follow from those and from what
    faint paint there is, have visibility 1.
    """
    joints, belief, cell = find_joints(rgb, JOINT_COLORS)
    people = join_people(joints, rgb)
    return to_keypoints([completed(person, belief, cell) for person in people], (rgb.shape[1], rgb.shape[2]))


def read_released(rgb: Array) -> Keypoints:
    """Red joints of a painting (3, H, W). Their type is not painted: each is one "person" with one joint, its nose."""
    joints, _, _ = find_joints(rgb, RED[None])
    return to_keypoints([{0: joint} for joint in joints], (rgb.shape[1], rgb.shape[2]))


def find_joints(rgb: Array, colors: Array) -> tuple[list[Joint], Array, int]:
    """Joints of each colour (n, 3) in a painting (3, H, W), looked for at two scales.

    Coarse cells see a large joint as one, whatever the noise on it; fine ones tell the joints of small people apart.
    Where both see one joint, the fine place counts; where only the fine ones see it, it is added. Small pictures have
    one scale, a cell a pixel.

    Returns:
        The joints, the coarse ones first; the belief (n, h, w) at the finest scale; the pixels along one of its cells.
    """
    coarse = max(1, round(max(rgb.shape[1:]) / DECODING.cells))
    fine = max(1, coarse // 2)
    belief = _smoothed(_belief(rgb, colors, fine))
    joints = _peaks(belief, fine)
    if fine == coarse:
        return joints, belief, fine
    large = _peaks(_smoothed(_belief(rgb, colors, coarse)), coarse)
    added = []
    for joint in joints:
        near = [one for one in large if one.kind == joint.kind and _apart(one, joint) <= DECODING.one_joint * coarse]
        if not near:
            added.append(joint)
    for one in large:
        near = [j for j in joints if j.kind == one.kind and _apart(one, j) <= DECODING.window // 2 * coarse]
        if len(near) == 1:
            one.place = near[0].place
    return large + added, belief, fine


def _belief(rgb: Array, colors: Array, cell: int) -> Array:
    """How surely each colour (n, 3) is shown, (n, h, w) in [0, 1], the mean over cells of so many pixels a side."""
    rows, columns = np.nonzero(rgb.max(axis=0) > DECODING.painted)
    levels = np.rint(rgb[:, rows, columns].clip(0, 1) * (LEVELS - 1)).astype(np.int64)
    shares = _shares(colors.tobytes())[np.ravel_multi_index(tuple(levels), (LEVELS,) * 3)]
    height, width = (-(-side // cell) for side in rgb.shape[1:])
    cells = rows // cell * width + columns // cell
    sums = [np.bincount(cells, share, height * width) for share in shares.T]
    return np.asarray(np.array(sums).reshape(-1, height, width) / cell**2, np.float32)


@lru_cache(maxsize=4)
def _shares(colors: bytes) -> Array:
    """(32 ** 3, n) belief in each of n colours for every colour that a pixel may have; less the farther it is."""
    meant = np.concatenate([np.frombuffer(colors, np.float32).reshape(-1, 3), NO_JOINT])
    shown = np.stack(np.meshgrid(*[np.linspace(0, 1, LEVELS, dtype=np.float32)] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = np.square(shown[:, None] - meant).sum(axis=-1)
    shares: Array = np.exp((distance.min(axis=1, keepdims=True) - distance) / (2 * DECODING.softness**2))
    shares *= np.exp(-distance / (8 * DECODING.softness**2)) / shares.sum(axis=1, keepdims=True)
    return np.ascontiguousarray(shares[:, : len(meant) - len(NO_JOINT)], np.float32)


def _smoothed(belief: Array) -> Array:
    blurred = [cv2.GaussianBlur(one, (0, 0), DECODING.blur, borderType=cv2.BORDER_CONSTANT) for one in belief]
    return np.array(blurred, np.float32)


def _peaks(belief: Array, cell: int) -> list[Joint]:
    """Peaks of the belief (n, h, w) in every kind, the surest first; of those within a window of each other, one."""
    around = np.ones((DECODING.window, DECODING.window), np.uint8)
    joints: list[Joint] = []
    for kind, plane in enumerate(belief):
        if plane.max() <= DECODING.least_peak:
            continue
        rows, columns = np.nonzero((plane > DECODING.least_peak) & (plane == cv2.dilate(plane, around)))
        best = np.argsort(-plane[rows, columns], kind="stable")[: DECODING.candidates]
        places = np.array([mass_centre(plane, int(rows[i]), int(columns[i])) * cell for i in best])
        free = np.ones(len(places), bool)
        for i, place in zip(range(len(places)), places, strict=True):
            if free[i]:
                joints.append(Joint(kind, place, float(plane[rows[best[i]], columns[best[i]]])))
                free &= np.abs(places - place).max(axis=1) > DECODING.window // 2 * cell
    return joints


def _apart(one: Joint, other: Joint) -> float:
    return float(np.abs(one.place - other.place).max())
