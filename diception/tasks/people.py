"""People from joints: joined along painted limbs, and completed where joints are missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diception.annotations import COCO_SKELETON, Keypoints
from diception.tasks.base import Array
from diception.tasks.decoding import DECODING
from diception.tasks.skeletons import JOINTS

STANDING = np.array(
    [
        *[(0, 0.07), (0.02, 0.05), (-0.02, 0.05), (0.045, 0.06), (-0.045, 0.06)],
        *[(0.12, 0.2), (-0.12, 0.2), (0.16, 0.36), (-0.16, 0.36), (0.17, 0.5), (-0.17, 0.5)],
        *[(0.06, 0.48), (-0.06, 0.48), (0.07, 0.72), (-0.07, 0.72), (0.07, 0.96), (-0.07, 0.96)],
    ],
    np.float32,
)
"""(17, 2) joints of a person who stands and looks at the camera, x and y in body heights."""


@dataclass
class Joint:
    """A joint found in a painting, or inferred from the others of its person."""

    kind: int
    place: Array
    """(2,) x, y in pixels."""
    score: float
    seen: bool = True


def join_people(joints: list[Joint], painted: NDArray[np.bool_]) -> list[dict[int, Joint]]:
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
            if support[row, column] >= DECODING.least_support:
                strength = float(support[row, column]) * joints[ones[row]].score * joints[others[column]].score
                links.append((strength, ones[row], others[column]))
    for _, i, j in sorted(links, reverse=True):
        one, other = owner[i], owner[j]
        if one != other and not people[one].keys() & people[other].keys():
            people[one] |= people.pop(other)
            owner = [one if o == other else o for o in owner]
    return [person for person in people.values() if len(person) >= DECODING.least_joints]


def completed(person: dict[int, Joint], belief: Array, factor: int) -> dict[int, Joint]:
    """Adds the joints that are missing: a standing figure, facing or turned away, fitted to those that are there.

    Each is moved with the nearest one that was found, which takes most of the pose into account, and then to where its
    own colour is painted, however faintly. What would lie outside the picture stays absent.
    """
    found = sorted(person)
    if not DECODING.fitted_joints <= len(found) < JOINTS:
        return person
    places = np.array([person[kind].place for kind in found])
    figure = min((_fitted(places, found, side) for side in (1, -1)), key=lambda fit: fit[1])[0]
    reach = max(DECODING.blur, DECODING.stray * float(np.ptp(figure[:, 1])) / factor)
    added = {}
    for kind in set(range(JOINTS)) - person.keys():
        near = found[int(np.abs(STANDING[found] - STANDING[kind]).sum(axis=1).argmin())]
        place = _likeliest(belief[kind], (person[near].place + figure[kind] - figure[near]) / factor, reach)
        if (place >= 0).all() and place[0] < belief.shape[2] and place[1] < belief.shape[1]:
            added[kind] = Joint(kind, (place * factor).astype(np.float32), 0.0, seen=False)
    return person | added


def _likeliest(belief: Array, place: Array, reach: float) -> Array:
    """(2,) x, y in cells: where a joint expected at `place` is painted in (h, w), however faintly, or else `place`."""
    low = np.maximum(np.floor(place - 3 * reach), 0).astype(int)
    high = np.ceil(place + 3 * reach).astype(int).clip(0)
    window = belief[low[1] : high[1], low[0] : high[0]]
    if not window.size:
        return place
    rows, columns = np.indices(window.shape) + 0.5
    squares = np.square(columns + low[0] - place[0]) + np.square(rows + low[1] - place[1])
    likely = window * np.exp(-squares / (2 * reach**2))
    row, column = np.unravel_index(int(likely.argmax()), likely.shape)
    return low + mass_centre(likely, int(row), int(column)) if likely[row, column] > DECODING.faint else place


def mass_centre(belief: Array, row: int, column: int) -> Array:
    """(2,) x, y of the mass of (h, w) around a peak; squared, so that the tail of a neighbour weighs little."""
    top, left = max(0, row - DECODING.window // 2), max(0, column - DECODING.window // 2)
    window = belief[top : row + DECODING.window // 2 + 1, left : column + DECODING.window // 2 + 1] ** 2
    down, right = ((np.indices(window.shape) + 0.5) * window).sum(axis=(1, 2)) / window.sum()
    return np.array([left + right, top + down], np.float32)


def _fitted(places: Array, found: list[int], side: int) -> tuple[Array, float]:
    """(17, 2) joints of the standing figure mapped affinely onto `places` (n, 2), and what the fit costs."""
    centre, target = STANDING[found].mean(axis=0), places.mean(axis=0)
    x, y = STANDING[found] - centre, places - target
    even = np.sqrt(np.square(y).sum() / np.square(x).sum()) * np.diag([side, 1])
    shear = np.linalg.solve(x.T @ x + DECODING.stiffness * np.eye(2), x.T @ y + DECODING.stiffness * even)
    cost = np.square(x @ shear - y).sum() + DECODING.stiffness * np.square(shear - even).sum()
    return ((STANDING - centre) @ shear + target).astype(np.float32), float(cost)


def _support(start: Array, end: Array, painted: NDArray[np.bool_]) -> float:
    """Share of the segment that is painted, a little less for longer ones, so that near joints win."""
    distance = float(np.linalg.norm(end - start))
    steps = np.linspace(0, 1, max(3, int(distance)))[:, None]
    places = (start + steps * (end - start)).astype(int)
    rows = places[:, 1].clip(0, painted.shape[0] - 1)
    columns = places[:, 0].clip(0, painted.shape[1] - 1)
    return float(painted[rows, columns].mean()) - 0.3 * distance / max(painted.shape)


def to_keypoints(people: list[dict[int, Joint]], size: tuple[int, int]) -> Keypoints:
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
