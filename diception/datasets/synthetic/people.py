"""Capsule people: a random pose, its 17 COCO joints in world coordinates, and the solids around them."""

from dataclasses import dataclass

import numpy as np

from diception.datasets.synthetic.raycast import Array, Solid, make_capsule, make_solid

HEIGHT = 1.75  # of the unscaled figure, metres
ARM, LEG, HEAD = 0.062, 0.085, 0.135  # radii; stockier than life, so that limbs survive at 128 pixels


@dataclass(frozen=True, eq=False)
class Part:
    """One solid of a person: what it is made of, and the joints that lie in it or on it."""

    solid: Solid
    material: str  # "skin" | "shirt" | "trousers" | "hair"
    joints: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Figure:
    parts: tuple[Part, ...]
    joints: Array  # (17, 3) world, COCO order
    radii: Array  # (17,) of the limb around each joint


def _swing(angle: float, spread: float) -> Array:
    """Unit direction (left, up, forward) of a limb hanging down, swung forward and then out to the side."""
    return np.array([np.sin(spread), -np.cos(spread) * np.cos(angle), np.cos(spread) * np.sin(angle)], np.float32)


def _limb(root: Array, side: int, lengths: tuple[float, float], angles: tuple[float, float, float]) -> list[Array]:
    """Middle and end joint of a limb; angles = (swing, bend of the lower half, spread)."""
    swing, bend, spread = angles
    flip = np.array([side, 1, 1], np.float32)
    middle = root + lengths[0] * _swing(swing, spread) * flip
    return [middle, middle + lengths[1] * _swing(swing + bend, spread * 0.6) * flip]


def _pose(generator: np.random.Generator, lively: float) -> Array:
    """Joints (17, 3) of the unscaled figure, axes (left, up, forward), pelvis above the origin."""
    uniform = generator.uniform
    lean = np.array([uniform(-0.08, 0.08), 0, uniform(-0.1, 0.1)], np.float32) * lively
    pelvis = np.array([0, 0.92, 0], np.float32)
    neck = pelvis + np.array([0, 0.50, 0], np.float32) + 0.5 * lean
    head = neck + np.array([0, 0.21, 0.02], np.float32) + 0.3 * lean
    joints = np.zeros((17, 3), np.float32)
    turn = uniform(-0.5, 0.5) * lively
    face = [(0, 0, 0.02, 1.02), (1, 0.38, 0.26, 0.88), (2, -0.38, 0.26, 0.88), (3, 0.99, 0.05, 0), (4, -0.99, 0.05, 0)]
    for joint, left, up, forward in face:
        sideways, ahead = left * np.cos(turn) + forward * np.sin(turn), forward * np.cos(turn) - left * np.sin(turn)
        joints[joint] = head + HEAD * np.array([sideways, up, ahead], np.float32)
    stride = uniform(-0.55, 0.55) * lively
    for side, offset in ((1, 0), (-1, 1)):
        shoulder = neck + np.array([side * 0.21, -0.03, 0], np.float32)
        hip = pelvis + np.array([side * 0.105, 0, 0], np.float32)
        raised = generator.random() < 0.35 * lively
        spread = uniform(0.9, 2.3) if raised else uniform(0.12, 0.5)
        arm = (uniform(-0.4, 0.6) - side * stride * 0.8, uniform(0.1, 1.3), spread)
        leg = (side * stride, -uniform(0.0, 0.35) * lively - max(0.0, -side * stride) * 0.5, uniform(0.03, 0.2))
        joints[5 + offset] = shoulder
        joints[7 + offset], joints[9 + offset] = _limb(shoulder, side, (0.28, 0.26), arm)
        joints[11 + offset] = hip
        joints[13 + offset], joints[15 + offset] = _limb(hip, side, (0.42, 0.42), leg)
    return joints


def make_figure(
    generator: np.random.Generator, ground: tuple[float, float], facing: float, height: float, lively: float = 1.0
) -> Figure:
    """A person standing at `ground` = (x, z); `facing` 0 looks along +z, towards the viewer."""
    joints = _pose(generator, lively)
    joints[:, 1] += 0.07 - joints[15:17, 1].min()
    joints *= height / HEIGHT
    cos, sin = np.cos(facing), np.sin(facing)
    x, z = joints[:, 0] * cos + joints[:, 2] * sin, joints[:, 2] * cos - joints[:, 0] * sin
    joints = np.stack([x + ground[0], joints[:, 1], z + ground[1]], axis=1).astype(np.float32)
    scale = height / HEIGHT
    radii = np.array([0.03] * 5 + [ARM] * 6 + [LEG] * 6, np.float32) * scale
    return Figure(_parts(joints, scale), joints, radii)


def _parts(joints: Array, scale: float) -> tuple[Part, ...]:
    nose, left_ear, right_ear = joints[0], joints[3], joints[4]
    head = (left_ear + right_ear) / 2
    ahead = (nose - head) / np.linalg.norm(nose - head)
    eye = np.eye(3, dtype=np.float32)
    shoulders, hips = joints[5:7].mean(0), joints[11:13].mean(0)
    up = (shoulders - hips) / np.linalg.norm(shoulders - hips)
    lift = np.array([0, 1, 0], np.float32)

    def ball(centre: Array, radius: float) -> Solid:
        return make_solid("sphere", centre.tolist(), [radius * scale] * 3, eye)

    def limb(start: int, end: int, radius: float) -> Solid:
        return make_capsule(joints[start], joints[end], radius * scale)

    parts = [
        Part(ball(head, HEAD), "skin", (0, 1, 2, 3, 4)),
        Part(ball(head + (0.045 * lift - 0.05 * ahead) * scale, HEAD), "hair", (3, 4)),
        Part(make_capsule(shoulders, head, 0.065 * scale), "skin", ()),
        Part(make_capsule(joints[5], joints[6], 0.085 * scale), "shirt", (5, 6)),
    ]
    for side in (0, 1):
        inward = 0.09 * scale * (hips - joints[11 + side]) / np.linalg.norm(hips - joints[11 + side])
        chest = joints[5 + side] + inward - 0.06 * scale * up
        parts.append(Part(make_capsule(chest, joints[11 + side], 0.115 * scale), "shirt", (5 + side, 11 + side)))
        parts.append(Part(limb(5 + side, 7 + side, ARM + 0.01), "shirt", (5 + side, 7 + side)))
        parts.append(Part(limb(7 + side, 9 + side, ARM), "skin", (7 + side, 9 + side)))
        parts.append(Part(limb(11 + side, 13 + side, LEG + 0.01), "trousers", (11 + side, 13 + side)))
        parts.append(Part(limb(13 + side, 15 + side, LEG - 0.01), "trousers", (13 + side, 15 + side)))
    return tuple(parts)
