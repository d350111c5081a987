"""The things in a scene: which, where, how large, of what material; they rest on the ground and do not meet."""

from dataclasses import dataclass

import numpy as np

from diception.datasets.synthetic.people import Figure, make_figure
from diception.datasets.synthetic.raycast import Array, Solid, make_solid
from diception.datasets.synthetic.textures import Material, hsv, patterned

CATEGORIES = ("box", "sphere", "cylinder", "person", "cone", "ring", "ellipsoid")
EASY = CATEGORIES[:4]
SKIN_TONES = ((0.07, 0.35, 0.95), (0.07, 0.45, 0.82), (0.06, 0.55, 0.62), (0.05, 0.6, 0.42))


@dataclass(frozen=True, eq=False)
class Thing:
    """One instance: solids with a material each, and a ball on the ground that stands for it in ambient shade."""

    category: str
    solids: tuple[Solid, ...]
    materials: tuple[Material, ...]
    centre: Array  # (3,) of the ball around all solids
    bound: float
    contact: tuple[Array, float]
    figure: Figure | None = None


def make_things(generator: np.random.Generator, domain: int, focal: float) -> tuple[Thing, ...]:
    """2 to 6 (domain 1) or 3 to 7 things on the ground in view, their footprints apart."""
    names = [name for name in (EASY if domain == 1 else CATEGORIES) if name != "person"]
    count = generator.integers(2, 7) if domain == 1 else generator.integers(3, 8)
    hue = generator.random()
    placed: list[tuple[float, float, float]] = []
    things: list[Thing] = []
    for number in range(count):
        person = generator.random() < (0.75 if number == 0 else 0.2)
        category = "person" if person else names[generator.integers(len(names))]
        size = generator.uniform(0.85, 1.45) if domain == 1 else generator.uniform(0.6, 1.5)
        footprint = 0.38 if category == "person" else 0.46 * size
        for _ in range(20):
            depth = generator.uniform(2.7, 6.0)
            x, z = generator.uniform(-0.46, 0.46) * depth / focal, -depth
            if all(np.hypot(x - a, z - b) > footprint + c for a, b, c in placed):
                break
        else:
            continue
        placed.append((x, z, footprint))
        # Steps of the golden ratio keep the hues of one scene apart.
        paint = _paint(generator, domain, hue + 0.618 * number)
        if category == "person":
            things.append(_person(generator, domain, (x, z), hue + 0.618 * number))
        else:
            things.append(_object(generator, domain, category, (x, z), size, paint))
    return tuple(things)


def _paint(generator: np.random.Generator, domain: int, hue: float) -> Material:
    colour = hsv(hue, generator.uniform(0.5, 0.85), generator.uniform(0.68, 0.95))
    if domain == 1 or generator.random() < 0.25:
        return Material(colour, shine=0.0 if domain == 1 else 0.4)
    other = hsv(hue + generator.uniform(-0.2, 0.2), generator.uniform(0.05, 0.8), generator.uniform(0.25, 1.0))
    return patterned(generator, colour, other, generator.uniform(2.0, 5.0))


def _person(generator: np.random.Generator, domain: int, ground: tuple[float, float], hue: float) -> Thing:
    facing = generator.uniform(-1.0, 1.0) if domain == 1 else generator.uniform(-np.pi, np.pi)
    figure = make_figure(generator, ground, facing, generator.uniform(1.5, 1.85), 0.8 if domain == 1 else 1.0)
    tone = SKIN_TONES[generator.integers(len(SKIN_TONES))]
    wear = {
        "skin": Material(hsv(*tone)),
        "hair": Material(hsv(0.07, 0.5, generator.uniform(0.12, 0.5))),
        "shirt": _paint(generator, domain, hue),
        "trousers": Material(
            hsv(generator.uniform(0.5, 0.72), generator.uniform(0.2, 0.6), generator.uniform(0.25, 0.6))
        ),
    }
    solids = tuple(part.solid for part in figure.parts)
    low, high = figure.joints.min(0) - 0.2, figure.joints.max(0) + 0.25
    contact = (np.array([ground[0], 0.2, ground[1]], np.float32), 0.3)
    materials = tuple(wear[part.material] for part in figure.parts)
    bound = float(np.linalg.norm(high - low)) / 2
    return Thing("person", solids, materials, (low + high) / 2, bound, contact, figure)


def _object(
    generator: np.random.Generator,
    domain: int,
    category: str,
    ground: tuple[float, float],
    size: float,
    paint: Material,
) -> Thing:
    wide, tall, deep = size * generator.uniform(0.24, 0.4, 3)
    shape, detail = category, 0.0
    if category == "sphere":
        tall = deep = wide
    elif category == "ellipsoid":
        shape, wide, tall = "sphere", 1.2 * wide, 0.7 * tall
    elif category in ("cylinder", "cone", "ring"):
        deep, tall = wide, tall * (1.2 if category != "ring" else 0.5)
        detail = generator.uniform(0.55, 0.8)
    half = np.array([wide, tall, deep])
    rotation = _rotation(generator.uniform(-np.pi, np.pi), *_tilt(generator, domain, category))
    centre = np.array([ground[0], _reach(shape, half, rotation), ground[1]])
    solid = make_solid(shape, centre.tolist(), half.tolist(), rotation, detail)
    ball = float(min(np.mean(half), centre[1]))
    contact = (np.array([ground[0], ball, ground[1]], np.float32), ball)
    return Thing(category, (solid,), (paint,), solid.centre, solid.bound, contact)


def _tilt(generator: np.random.Generator, domain: int, category: str) -> tuple[float, float]:
    """Rotations about x and z: upright in domain 1; leaning or lying at times in domain 2."""
    if domain == 1 or generator.random() < 0.4:
        return 0.0, 0.0
    if category in ("cylinder", "ring"):
        return np.pi / 2, 0.0
    return generator.uniform(-0.6, 0.6), generator.uniform(-0.6, 0.6)


def _rotation(yaw: float, about_x: float, about_z: float) -> Array:
    c, s = np.cos([yaw, about_x, about_z]), np.sin([yaw, about_x, about_z])
    turn = np.array([[c[0], 0, s[0]], [0, 1, 0], [-s[0], 0, c[0]]])
    lean = np.array([[1, 0, 0], [0, c[1], -s[1]], [0, s[1], c[1]]])
    roll = np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
    return (turn @ lean @ roll).astype(np.float32)


def _reach(shape: str, half: np.ndarray, rotation: Array) -> float:
    """How far the solid reaches below its centre, so that it rests on the ground."""
    down = np.abs(rotation[1])
    if shape == "box":
        return float(down @ half)
    if shape == "sphere":
        return float(np.linalg.norm(down * half))
    rim = float(down[1] * half[1] + np.hypot(down[0], down[2]) * half[0])
    if shape == "cone":
        axis = float(rotation[1, 1])
        return max(axis * half[1] + float(np.hypot(down[0], down[2])) * half[0], -axis * half[1])
    return rim
