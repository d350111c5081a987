"""People from joints: joined along painted limbs, and completed where joints are missing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diception.annotations import COCO_SKELETON, Keypoints
from diception.tasks.base import Array
from diception.tasks.decoding import DECODING
from diception.tasks.skeletons import JOINTS, LIMB_COLORS, TIE, limb_side

STANDING = np.array(
    [
        *[(0, 0.07), (0.02, 0.05), (-0.02, 0.05), (0.045, 0.06), (-0.045, 0.06)],
        *[(0.12, 0.2), (-0.12, 0.2), (0.16, 0.36), (-0.16, 0.36), (0.17, 0.5), (-0.17, 0.5)],
        *[(0.06, 0.48), (-0.06, 0.48), (0.07, 0.72), (-0.07, 0.72), (0.07, 0.96), (-0.07, 0.96)],
    ],
    np.float32,
)
"""(17, 2) joints of a person who stands and looks at the camera, x and y in body heights."""

LIMBS = frozenset(frozenset(limb) for limb in COCO_SKELETON)


@dataclass
class Joint:
    """A joint found in a painting, or inferred from the others of its person."""

    kind: int
    place: Array
    """(2,) x, y in pixels."""
    score: float
    seen: bool = True


class _Groups:
    """Joints that are merged into people."""

    def __init__(self, joints: list[Joint]) -> None:
        self.owner = list(range(len(joints)))
        self.people: dict[int, dict[int, Joint]] = {i: {joint.kind: joint} for i, joint in enumerate(joints)}

    def link(self, links: list[tuple[float, int, int]]) -> None:
        """Merges along (strength, joint, joint), the strongest first; a person has one joint of a kind."""
        for _, i, j in sorted(links, reverse=True):
            one, other = self.owner[i], self.owner[j]
            if one != other and not self.people[one].keys() & self.people[other].keys():
                self.people[one] |= self.people.pop(other)
                self.owner = [one if own == other else own for own in self.owner]


def join_people(joints: list[Joint], rgb: Array) -> list[dict[int, Joint]]:
    """Groups joints into people along what a painting (3, H, W) shows between them: limbs first, then ties."""
    painted, bright = rgb.max(axis=0) > DECODING.painted, rgb.max(axis=0) > DECODING.bright
    distance = np.array([np.square(rgb - color[:, None, None]).sum(axis=0) for color in LIMB_COLORS])
    own = distance == distance.min(axis=0)
    shown = np.where(own | bright, 1, DECODING.crossing).astype(np.float32) * painted
    groups = _Groups(joints)
    groups.link([link for limb in COCO_SKELETON for link in _limbs(limb, joints, shown[limb_side(*limb)])])
    groups.link(_tied(joints, groups, shown[TIE], own[TIE] & painted & ~bright))
    return [person for person in groups.people.values() if len(person) >= DECODING.least_joints]


def _limbs(limb: tuple[int, int], joints: list[Joint], shown: Array) -> list[tuple[float, int, int]]:
    """(strength, joint, joint) of the limbs of a kind: every joint has one at most, and together they agree best."""
    ones, others = ([i for i, joint in enumerate(joints) if joint.kind == kind] for kind in limb)
    support = _support(joints, list(product(ones, others)), shown).reshape(len(ones), len(others))
    return [
        (support[row, column] * joints[ones[row]].score * joints[others[column]].score, ones[row], others[column])
        for row, column in zip(*linear_sum_assignment(-support), strict=True)
        if support[row, column] >= DECODING.least_support
    ]


def _tied(joints: list[Joint], groups: _Groups, shown: Array, sure: NDArray[Any]) -> list[tuple[float, int, int]]:
    """(strength, joint, joint) of the ties between people so far; part of each must show itself."""
    if not sure.any():
        return []
    apart = [pair for pair in combinations(range(len(joints)), 2) if groups.owner[pair[0]] != groups.owner[pair[1]]]
    pairs = [(i, j) for i, j in apart if frozenset((joints[i].kind, joints[j].kind)) not in LIMBS]
    support, itself = _support(joints, pairs, shown), _support(joints, pairs, sure)
    chosen = np.flatnonzero((support >= DECODING.least_support) & (itself >= DECODING.least_tie))
    return [(float(support[k] + itself[k]), *pairs[k]) for k in chosen]


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


def _support(joints: list[Joint], pairs: list[tuple[int, int]], shown: NDArray[Any]) -> Array:
    """(n,) means of what is shown (H, W) on the ways between n pairs; a little less for long ones, so that near win."""
    if not pairs:
        return np.zeros(0, np.float32)
    starts, ends = np.array([[joints[i].place, joints[j].place] for i, j in pairs]).transpose(1, 0, 2)
    places = starts[:, None] + np.linspace(0, 1, DECODING.steps, dtype=np.float32)[:, None] * (ends - starts)[:, None]
    columns, rows = np.minimum(places.astype(int).clip(0), np.array(shown.shape)[::-1] - 1).transpose(2, 0, 1)
    distance = np.linalg.norm(ends - starts, axis=1)
    return np.asarray(shown[rows, columns].mean(axis=1) - 0.3 * distance / max(shown.shape), np.float32)


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
