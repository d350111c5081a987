"""Analytic ray casting: solids, planes, and where rays first meet them (N rays, arrays (3, N), float32)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]  # float32 throughout; numpy's stubs widen scalar arithmetic
Indices = npt.NDArray[np.intp]
MISS = np.float32(np.inf)
SHAPES = ("box", "sphere", "cylinder", "cone", "ring", "capsule")


@dataclass(frozen=True, eq=False)
class Solid:
    """A unit shape (|x|, |y|, |z| <= 1, axis y) moved by an affine map, which leaves the ray parameter unchanged."""

    shape: str
    centre: Array  # (3,) world
    to_local: Array  # (3, 3) world offset from the centre -> unit shape
    bound: float  # radius of a sphere around the centre that holds the solid
    detail: float = 0.0  # capsule: half length in radii; ring: inner radius


@dataclass(frozen=True, eq=False)
class Plane:
    """The points with normal . x = offset; rays meet it from the side that the normal points to."""

    normal: Array  # (3,) world, unit
    offset: float


def make_solid(
    shape: str, centre: Sequence[float], half: Sequence[float], rotation: Array, detail: float = 0.0
) -> Solid:
    """A solid with half sizes `half` along its own axes; `rotation` (3, 3) takes own axes to world axes."""
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    across = max(half[0], half[2])
    bounds = {"box": float(np.linalg.norm(half)), "sphere": max(half)}
    to_local = rotation.T / np.asarray(half, np.float32)[:, None]
    bound = bounds.get(shape, float(np.hypot(across, half[1])))
    return Solid(shape, np.asarray(centre, np.float32), to_local.astype(np.float32), bound, detail)


def make_capsule(start: Array, end: Array, radius: float) -> Solid:
    """All points within `radius` of the segment from `start` (3,) to `end` (3,)."""
    x, y, z = (end - start).tolist()
    length = math.hypot(x, y, z)
    assert length > 0, "a capsule of no length is a sphere"
    x, y, z = x / length, y / length, z / length
    # Two unit vectors across the axis (x, y, z), from the coordinate plane that is farthest from it.
    side = (0.0, z, -y) if abs(x) < 0.7 else (-y, x, 0.0)
    width = math.hypot(*side)
    a, b, c = (value / width for value in side)
    rows = [[a, b, c], [x, y, z], [b * z - c * y, c * x - a * z, a * y - b * x]]
    to_local = np.array(rows, np.float32) / np.float32(radius)
    return Solid("capsule", (start + end) / 2, to_local, length / 2 + radius, length / 2 / radius)


def dot(a: Array, b: Array) -> Array:
    return np.einsum("ij,ij->j", a, b)


class Rays:
    """N rays with one origin (3, 1) or one each (3, N), and products that every test of nearness needs."""

    def __init__(self, origins: Array, directions: Array) -> None:
        self.origins, self.directions = origins, directions
        self.squared = dot(directions, directions)
        self.start = dot(origins, directions) if origins.shape[1] > 1 else origins[:, 0] @ directions
        self.away = dot(origins, origins)

    def near(self, centre: Array, radius: float, index: Indices | None = None) -> tuple[Indices, Array]:
        """The rays (of `index`) that pass within `radius` of `centre`, and their parameter at the closest approach."""
        origins, directions = self.origins, self.directions
        squared, start, away = self.squared, self.start, self.away
        if index is not None:
            directions, squared, start = directions.take(index, 1), squared[index], start[index]
            if origins.shape[1] > 1:
                origins, away = origins.take(index, 1), away[index]
        along = (centre @ directions - start) / squared
        gap = away - 2 * (centre @ origins) + centre @ centre - along * along * squared
        # Wider than asked by the rounding of coordinates of some ten metres.
        keep = np.flatnonzero(gap <= (1.02 * radius + 4e-3) ** 2)
        return (keep if index is None else index[keep]), along[keep]


def hit_solid(solid: Solid, rays: Rays, index: Indices | None = None, after: float = 1e-3) -> tuple[Indices, Array]:
    """The rays that may meet the solid, and the parameter of the first meeting beyond `after` (inf: none).

    A ray that starts inside a convex solid counts as missing it.
    """
    index, along = rays.near(solid.centre, solid.bound, index)
    toward = rays.directions.take(index, 1)
    start = rays.origins if rays.origins.shape[1] == 1 else rays.origins.take(index, 1)
    # Start at the closest approach, not at the camera: the quadratics lose digits when |origin| >> size.
    local = solid.to_local @ (start + along * toward - solid.centre[:, None])
    toward = solid.to_local @ toward
    near = _ring(local, toward, solid.detail, after - along) if solid.shape == "ring" else _near(solid, local, toward)
    near = near + along
    return index, np.where(near > after, near, MISS)


def hit_plane(plane: Plane, origins: Array, directions: Array) -> Array:
    """Parameters (N,) where the rays meet the plane from its front; inf for none."""
    slope = plane.normal @ directions
    height = plane.offset - plane.normal @ origins
    with np.errstate(divide="ignore"):
        return np.where(slope < -1e-6, height / slope, MISS)


def _quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Roots of a t^2 + 2 b t + c; an empty interval (inf, -inf) where there is none."""
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    a = np.maximum(a, 1e-12)
    return np.where(inside >= 0, (-b - root) / a, MISS), np.where(inside >= 0, (-b + root) / a, -MISS)


def _across(p: Array, d: Array, squared_radius: float) -> tuple[Array, Array, Array]:
    """Coefficients for the endless cylinder x^2 + z^2 = squared_radius."""
    return (
        d[0] * d[0] + d[2] * d[2],
        p[0] * d[0] + p[2] * d[2],
        p[0] * p[0] + p[2] * p[2] - np.float32(squared_radius),
    )


def _slab(p: Array, d: Array) -> tuple[Array, Array]:
    """Interval where |p + t d| <= 1, for one coordinate (..., N)."""
    d = np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    low, high = (-1 - p) / d, (1 - p) / d
    return np.minimum(low, high), np.maximum(low, high)


def _near(solid: Solid, p: Array, d: Array) -> Array:
    """Where rays p + t d enter a convex unit shape; inf for none."""
    if solid.shape == "sphere":
        return _quadratic(dot(d, d), dot(p, d), dot(p, p) - 1)[0]
    if solid.shape == "capsule":
        return _capsule(p, d, solid.detail)
    if solid.shape == "box":
        near, far = _slab(p, d)
        near, far = near.max(0), far.min(0)
    else:
        near, far = _cone(p, d) if solid.shape == "cone" else _tube(p, d)
    return np.where(near <= far, near, MISS)


def _tube(p: Array, d: Array) -> tuple[Array, Array]:
    """Interval inside the unit cylinder."""
    near, far = _quadratic(*_across(p, d, 1.0))
    low, high = _slab(p[1], d[1])
    return np.maximum(near, low), np.minimum(far, high)


def _ring(p: Array, d: Array, inner: float, after: Array) -> Array:
    """The unit cylinder without its core: its own surface, or, seen through the hole, the core's far wall."""
    near, far = _tube(p, d)
    core_near, core_far = _quadratic(*_across(p, d, inner**2))
    outside = (near > after) & ~((near > core_near) & (near < core_far))
    through = (core_far > near) & (core_far < far) & (core_far > after)
    return np.where((near <= far) & outside, near, np.where((near <= far) & through, core_far, MISS))


def _capsule(p: Array, d: Array, half: float) -> Array:
    """The side where the endless cylinder is met between the ends, else the ball at the end that is passed first."""
    side = _quadratic(*_across(p, d, 1.0))[0]
    height = p[1] + np.where(np.isfinite(side), side, 0) * d[1]
    end = np.clip(height, -half, half)
    ball = np.flatnonzero((end != height) & np.isfinite(side))
    q, e = p.take(ball, 1), d.take(ball, 1)
    q[1] -= end[ball]
    side[ball] = _quadratic(dot(e, e), dot(q, e), dot(q, q) - 1)[0]
    return side


def _cone(p: Array, d: Array) -> tuple[Array, Array]:
    """Apex at y = 1, radius 1 at y = -1: x^2 + z^2 <= ((1 - y) / 2)^2."""
    top, fall = (1 - p[1]) / 2, -d[1] / 2
    a, b, c = _across(p, d, 0.0)
    a, b, c = a - fall * fall, b - top * fall, c - top * top
    a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    one, two = (-b - root) / a, (-b + root) / a
    low, high = _slab(p[1], d[1])
    # a < 0: the ray is inside the double cone outside the roots; the part below the apex is one half line.
    steep = a < 0
    first, last = np.minimum(one, two), np.maximum(one, two)
    near = np.where(steep, np.where(d[1] < 0, last, -MISS), first)
    far = np.where(steep, np.where(d[1] < 0, MISS, first), last)
    near, far = np.maximum(near, low), np.minimum(far, high)
    return np.where(inside >= 0, near, MISS), np.where(inside >= 0, far, -MISS)


def solid_normals(solid: Solid, points: Array) -> Array:
    """Outward unit normals (3, N), world, at surface points (3, N), world."""
    p = solid.to_local @ (points - solid.centre[:, None])
    if solid.shape == "sphere":
        local = p
    elif solid.shape == "capsule":
        local = p.copy()
        local[1] -= np.clip(p[1], -solid.detail, solid.detail)
    elif solid.shape == "box":
        size = np.abs(p)
        local = np.where(size == size.max(0), np.sign(p), np.float32(0))
    else:
        local = _round_normals(solid, p)
    world = solid.to_local.T @ local
    return world / np.sqrt(dot(world, world))


def _round_normals(solid: Solid, p: Array) -> Array:
    """Normals of cylinder, cone and ring in unit coordinates: of whichever face the point (3, N) is nearest to."""
    rho = np.sqrt(p[0] * p[0] + p[2] * p[2])
    side = p / np.maximum(rho, 1e-6)
    cap = np.zeros_like(p)
    if solid.shape == "cone":
        side[1], cap[1] = 0.5, -1
        return np.where(-1 - p[1] > rho - (1 - p[1]) / 2, cap, side)
    side[1], cap[1] = 0, np.sign(p[1])
    if solid.shape == "cylinder":
        return np.where(np.abs(p[1]) > rho, cap, side)
    inner, outer = np.abs(rho - solid.detail), np.abs(rho - 1)
    wall = np.where(inner < outer, -side, side)
    return np.where(np.abs(1 - np.abs(p[1])) < np.minimum(inner, outer), cap, wall)
