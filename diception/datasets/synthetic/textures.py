"""Surface colours: plain paint and procedural patterns evaluated at points in metres."""

import colorsys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diception.datasets.synthetic.raycast import Array

PATTERNS = ("checker", "stripes", "noise", "dots", "bricks")
LATTICE = 8


@dataclass(frozen=True, eq=False)
class Material:
    """Linear RGB of a surface: one colour, or a pattern between two."""

    colour: Array  # (3,) linear
    other: Array | None = None  # (3,) linear; None = plain
    pattern: str = "plain"
    frequency: float = 1.0  # repeats a metre
    frame: Array | None = None  # (3, 3) world -> pattern axes
    lattice: Array | None = None  # (LATTICE,) * 3, for noise
    shine: float = 0.0

    def paint(self, points: Array) -> Array:
        """Colours (3, N) at world points (3, N)."""
        if self.other is None or self.frame is None:
            return np.repeat(self.colour[:, None], points.shape[1], axis=1)
        share = self._share(self.frame @ points * np.float32(self.frequency))
        return self.colour[:, None] + (self.other - self.colour)[:, None] * share

    def _share(self, p: Array) -> Array:
        """How much of the other colour, (N,) in [0, 1]."""
        if self.pattern == "stripes":
            return (np.mod(p[0], 1) < 0.5).astype(np.float32)
        if self.pattern == "checker":
            # The shift keeps cell borders off the ground, where rounding would speckle them.
            cells = np.floor(p + np.float32(0.37)).astype(np.int32)
            return (cells.sum(0) & 1).astype(np.float32)
        if self.pattern == "dots":
            cell = np.mod(p, 1) - 0.5
            return (np.einsum("ij,ij->j", cell, cell) < 0.16).astype(np.float32)
        if self.pattern == "bricks":
            row = np.floor(p[1] * 2)
            edge = (np.mod(p[1] * 2, 1) < 0.14) | (np.mod(p[0] + 0.5 * np.mod(row, 2), 1) < 0.07)
            return edge.astype(np.float32)
        assert self.lattice is not None, self.pattern
        share = 0.65 * value_noise(self.lattice, p) + 0.35 * value_noise(self.lattice, p * np.float32(2.7))
        return np.clip(2.2 * share - 0.6, 0, 1)


def value_noise(lattice: Array, p: Array) -> Array:
    """Periodic trilinear noise (N,) in [0, 1] at points (3, N)."""
    base = np.floor(p)
    f = p - base
    f = f * f * (3 - 2 * f)
    low = base.astype(np.int32) % LATTICE
    high = (low + 1) % LATTICE
    total: npt.NDArray[np.float32] = np.zeros(p.shape[1], np.float32)
    for corner in range(8):
        bits = [(corner >> axis) & 1 for axis in range(3)]
        x, y, z = (high[axis] if bit else low[axis] for axis, bit in enumerate(bits))
        wx, wy, wz = (f[axis] if bit else 1 - f[axis] for axis, bit in enumerate(bits))
        total += lattice[x, y, z] * (wx * wy * wz)
    return total


def hsv(hue: float, saturation: float, value: float) -> Array:
    """Linear RGB (3,) of a display colour."""
    return np.asarray(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32) ** np.float32(2.2)


def patterned(
    generator: np.random.Generator, colour: Array, other: Array, frequency: float, lie: str = "free"
) -> Material:
    """A random pattern; `lie` sets its axes: "free" any, "ground" along the ground, "wall" along both walls."""
    frame, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    turn = generator.uniform(0, np.pi)
    if lie == "ground":
        frame = np.array([[np.cos(turn), 0, np.sin(turn)], [-np.sin(turn), 0, np.cos(turn)], [0, 1, 0]])
    if lie == "wall":
        frame = np.array([[0.7, 0, 0.7], [0, 1, 0], [-0.7, 0, 0.7]])
    pattern = PATTERNS[generator.integers(len(PATTERNS) - (lie == "free"))]
    lattice = generator.random((LATTICE, LATTICE, LATTICE), dtype=np.float32)
    return Material(colour, other, pattern, frequency, frame.astype(np.float32), lattice)
