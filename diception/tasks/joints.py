"""Reading joints and people back from painted skeletons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from diception.annotations import COCO_SKELETON, Keypoints
from diception.tasks.base import Array
from diception.tasks.skeletons import JOINT_COLORS, JOINTS, LIMB_COLORS, RED

NO_JOINT = np.concatenate([np.zeros((1, 3), np.float32), LIMB_COLORS])
"""(4, 3): what else is painted."""
CELLS = 192
"""Joints are looked for at about this many cells a side: nothing is won by more, and it costs the same at any size."""
SOFTNESS = 0.2
"""Deviation of a painted colour around the one that was meant."""
BLUR = 1.4
"""Deviation in cells of the smoothing before peaks are sought; a joint is twice as wide at least."""
WINDOW = 7
"""One joint of a kind in so many cells."""
CANDIDATES = 200
"""Peaks of one kind that are looked at; a flat picture has a peak at every cell."""
LEAST_PEAK = 0.2
"""Smoothed belief in a joint, of 1, below which there is none."""
PAINTED = 0.2
"""A pixel is painted if a channel reaches this."""
LEAST_SUPPORT = 0.6
"""Share of a limb that must be painted for it to join two joints."""
LEAST_JOINTS = 3
"""A person with fewer joints is not reported."""
STANDING = np.array(
    [
        *[(0, 0.07), (0.02, 0.05), (-0.02, 0.05), (0.045, 0.06), (-0.045, 0.06)],
        *[(0.12, 0.2), (-0.12, 0.2), (0.16, 0.36), (-0.16, 0.36), (0.17, 0.5), (-0.17, 0.5)],
        *[(0.06, 0.48), (-0.06, 0.48), (0.07, 0.72), (-0.07, 0.72), (0.07, 0.96), (-0.07, 0.96)],
    ],
    np.float32,
)
"""(17, 2) joints of a person who stands and looks at the camera, x and y in body heights."""
STRAY = 0.1
"""Deviation, in body heights, of a joint from where the fitted figure has it."""
FAINT = 0.02
"""Belief in a missing joint, near its place in the figure, that is worth following."""
STIFFNESS = 0.3
"""How much the fitted figure prefers an even scale over the shear that a few joints suggest."""


@dataclass
class Joint:
    """A joint found in a painting, or inferred from the others of its person."""

    kind: int
    place: Array
    """(2,) x, y in pixels."""
    score: float
    seen: bool = True


def read_typed(rgb: Array) -> Keypoints:
    """People of a painting (3, H, W): joints by colour, joined along painted limbs.

    Joints with a colour of their own have visibility 2. The others of a person, which follow from those and from what
    faint paint there is, have visibility 1.
    """
    belief, factor = _belief(rgb, JOINT_COLORS)
    people = _join(_find_joints(belief, factor), rgb.max(axis=0) > PAINTED)
    return _keypoints([_completed(person, belief, factor) for person in people], (rgb.shape[1], rgb.shape[2]))


def read_released(rgb: Array) -> Keypoints:
    """Red joints of a painting (3, H, W). Their type is not painted: each is one "person" with one joint, its nose."""
    joints = _find_joints(*_belief(rgb, RED[None]))
    return _keypoints([{0: joint} for joint in joints], (rgb.shape[1], rgb.shape[2]))


def _belief(rgb: Array, colors: Array) -> tuple[Array, int]:
    """How surely each colour (n, 3) is shown, (n, h, w) in [0, 1], smoothed; and the pixels along a side of a cell."""
    factor = max(1, round(max(rgb.shape[1:]) / CELLS))
    rows, columns = np.nonzero(rgb.max(axis=0) > PAINTED)
    distance = np.square(rgb[:, rows, columns].T[:, None] - np.concatenate([colors, NO_JOINT])).sum(axis=-1)
    nearest = distance.min(axis=1, keepdims=True)
    shares = np.exp((nearest - distance) / (2 * SOFTNESS**2))
    shares *= np.exp(-distance / (8 * SOFTNESS**2)) / shares.sum(axis=1, keepdims=True)
    height, width = (-(-side // factor) for side in rgb.shape[1:])
    cells = rows // factor * width + columns // factor
    sums = [np.bincount(cells, share, height * width) for share in shares[:, : len(colors)].T]
    belief = (np.array(sums).reshape(-1, height, width) / factor**2).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(belief, (0, BLUR, BLUR), mode="constant"), np.float32), factor


def _find_joints(belief: Array, factor: int) -> list[Joint]:
    """Peaks of the belief (n, h, w) in every kind, the surest first; of those within a window of each other, one."""
    peaks = (belief > LEAST_PEAK) & (belief == ndimage.maximum_filter(belief, (1, WINDOW, WINDOW), mode="constant"))
    joints: list[Joint] = []
    for kind in np.flatnonzero(peaks.any(axis=(1, 2))):
        rows, columns = np.nonzero(peaks[kind])
        best = np.argsort(-belief[kind, rows, columns], kind="stable")[:CANDIDATES]
        places = np.array([_centre(belief[kind], int(rows[i]), int(columns[i])) * factor for i in best])
        free = np.ones(len(places), bool)
        for i, place in zip(range(len(places)), places, strict=True):
            if free[i]:
                joints.append(Joint(int(kind), place, float(belief[kind, rows[best[i]], columns[best[i]]])))
                free &= np.abs(places - place).max(axis=1) > WINDOW // 2 * factor
    return joints


def _centre(belief: Array, row: int, column: int) -> Array:
    """(2,) x, y of the mass of (h, w) around a peak; squared, so that the tail of a neighbour weighs little."""
    top, left = max(0, row - WINDOW // 2), max(0, column - WINDOW // 2)
    window = belief[top : row + WINDOW // 2 + 1, left : column + WINDOW // 2 + 1] ** 2
    down, right = ((np.indices(window.shape) + 0.5) * window).sum(axis=(1, 2)) / window.sum()
    return np.array([left + right, top + down], np.float32)


def _join(joints: list[Joint], painted: NDArray[np.bool_]) -> list[dict[int, Joint]]:
    """Groups joints into people: the best pairs along painted limbs first, one joint of a kind per person."""
    owner = list(range(len(joints)))
    people: dict[int, dict[int, Joint]] = {i: {joint.kind: joint} for i, joint in enumerate(joints)}
    links = []
    for a, b in COCO_SKELETON:
        ones = [i for i, joint in enumerate(joints) if joint.kind == a]
        others = [i for i, joint in enumerate(joints) if joint.kind == b]
        if not ones or not others:
            continue
        support = np.array([[_support(joints[i].place, joints[j].place, painted) for j in others] for i in ones])
        for row, column in zip(*linear_sum_assignment(-support), strict=True):
            if support[row, column] >= LEAST_SUPPORT:
                strength = float(support[row, column]) * joints[ones[row]].score * joints[others[column]].score
                links.append((strength, ones[row], others[column]))
    for _, i, j in sorted(links, reverse=True):
        one, other = owner[i], owner[j]
        if one != other and not people[one].keys() & people[other].keys():
            people[one] |= people.pop(other)
            owner = [one if o == other else o for o in owner]
    return [person for person in people.values() if len(person) >= LEAST_JOINTS]


def _completed(person: dict[int, Joint], belief: Array, factor: int) -> dict[int, Joint]:
    """Adds the joints that are missing: a standing figure, facing or turned away, fitted to those that are there.

    Each is moved with the nearest one that was found, which takes most of the pose into account, and then to where its
    own colour is painted, however faintly. What would lie outside the picture stays absent.
    """
    found = sorted(person)
    if len(found) == JOINTS:
        return person
    places = np.array([person[kind].place for kind in found])
    figure = min((_fitted(places, found, side) for side in (1, -1)), key=lambda fit: fit[1])[0]
    reach = max(BLUR, STRAY * float(np.ptp(figure[:, 1])) / factor)
    rows, columns = np.indices(belief.shape[1:]) + 0.5
    added = {}
    for kind in set(range(JOINTS)) - person.keys():
        near = found[int(np.abs(STANDING[found] - STANDING[kind]).sum(axis=1).argmin())]
        place = (person[near].place + figure[kind] - figure[near]) / factor
        prior = np.exp(-(np.square(columns - place[0]) + np.square(rows - place[1])) / (2 * reach**2))
        likely = belief[kind] * prior
        row, column = np.unravel_index(int(likely.argmax()), likely.shape)
        if likely[row, column] > FAINT:
            place = _centre(likely, int(row), int(column))
        if (place >= 0).all() and place[0] < belief.shape[2] and place[1] < belief.shape[1]:
            added[kind] = Joint(kind, (place * factor).astype(np.float32), 0.0, seen=False)
    return person | added


def _fitted(places: Array, found: list[int], side: int) -> tuple[Array, float]:
    """(17, 2) joints of the standing figure mapped affinely onto `places` (n, 2), and what the fit costs."""
    centre, target = STANDING[found].mean(axis=0), places.mean(axis=0)
    x, y = STANDING[found] - centre, places - target
    even = np.sqrt(np.square(y).sum() / np.square(x).sum()) * np.diag([side, 1])
    shear = np.linalg.solve(x.T @ x + STIFFNESS * np.eye(2), x.T @ y + STIFFNESS * even)
    cost = np.square(x @ shear - y).sum() + STIFFNESS * np.square(shear - even).sum()
    return ((STANDING - centre) @ shear + target).astype(np.float32), float(cost)


def _support(start: Array, end: Array, painted: NDArray[np.bool_]) -> float:
    """Share of the segment that is painted, a little less for longer ones, so that near joints win."""
    distance = float(np.linalg.norm(end - start))
    steps = np.linspace(0, 1, max(3, int(distance)))[:, None]
    places = (start + steps * (end - start)).astype(int)
    rows = places[:, 1].clip(0, painted.shape[0] - 1)
    columns = places[:, 0].clip(0, painted.shape[1] - 1)
    return float(painted[rows, columns].mean()) - 0.3 * distance / max(painted.shape)


def _keypoints(people: list[dict[int, Joint]], size: tuple[int, int]) -> Keypoints:
    array = np.zeros((len(people), JOINTS, 3), np.float32)
    for row, person in zip(array, people, strict=True):
        for kind, joint in person.items():
            row[kind] = (*joint.place, 2 if joint.seen else 1)
    areas = np.array([_area(row) for row in array], np.float32)
    scores = np.array([sum(j.score for j in person.values()) / JOINTS for person in people], np.float32)
    return Keypoints(array, size, areas, scores)


def _area(person: Array) -> float:
    places = person[person[:, 2] > 0, :2]
    return float(max(1.0, np.prod(np.ptp(places, axis=0)) * 0.6)) if len(places) > 1 else 1.0
