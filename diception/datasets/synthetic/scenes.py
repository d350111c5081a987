"""A scene drawn from a generator: camera, light, backdrop, and the things in it."""

from dataclasses import dataclass

import numpy as np

from diception.datasets.synthetic.raycast import Array, Plane
from diception.datasets.synthetic.textures import Material, hsv, patterned
from diception.datasets.synthetic.things import Thing, make_things

FIXED_LIGHT = (-0.55, 0.72, 0.46)
FARTHEST = 40.0  # metres; beyond it there is sky


@dataclass(frozen=True, eq=False)
class Camera:
    position: Array  # (3,) world
    axes: Array  # (3, 3), rows right, up, back: world -> camera
    focal: float  # in image sides

    def rays(self, pixels: Array, size: int) -> Array:
        """World directions (3, N) through image positions (2, N); the ray parameter is the z-depth."""
        x = (pixels[0] / size - 0.5) / self.focal
        y = (0.5 - pixels[1] / size) / self.focal
        return self.axes.T @ np.stack([x, y, -np.ones_like(x)]).astype(np.float32)

    def project(self, points: Array, size: int) -> Array:
        """Image x, y and z-depth (N, 3) of world points (N, 3)."""
        x, y, back = self.axes @ (points - self.position).T
        scale = self.focal * size / np.maximum(-back, 1e-3)
        return np.stack([size / 2 + x * scale, size / 2 - y * scale, -back], axis=1)


@dataclass(frozen=True, eq=False)
class Scene:
    camera: Camera
    things: tuple[Thing, ...]
    backdrop: tuple[tuple[Plane, Material], ...]
    light: Array  # (3,) unit, towards the light
    light_colour: Array  # (3,)
    ambient: Array  # (3,)
    horizon: Array  # (3,) sky colours
    zenith: Array  # (3,)


def make_scene(generator: np.random.Generator, domain: int) -> Scene:
    """A random scene of a domain: 1 plain and narrow, 2 textured and wide."""
    camera = _camera(generator, domain)
    light = np.array(FIXED_LIGHT)
    warm, strength, fill = 0.0, 0.95, 0.42
    if domain == 2:
        azimuth = generator.uniform(-0.75 * np.pi, 0.75 * np.pi)  # 0: from behind the camera
        light = np.array([np.sin(azimuth), generator.uniform(0.75, 1.6), np.cos(azimuth)])
        warm, strength, fill = generator.uniform(-0.12, 0.2), generator.uniform(0.75, 1.15), generator.uniform(0.3, 0.5)
    sky = generator.uniform(0.5, 0.68) if domain == 2 else 0.58
    return Scene(
        camera=camera,
        things=make_things(generator, domain, camera.focal),
        backdrop=_backdrop(generator, domain),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        light_colour=np.array([1 + warm, 1, 1 - warm], np.float32) * np.float32(strength),
        ambient=np.array([0.94 - warm / 2, 0.98, 1.08 + warm / 2], np.float32) * np.float32(fill),
        horizon=hsv(sky - 0.02, generator.uniform(0.05, 0.25), 0.97),
        zenith=hsv(sky, generator.uniform(0.4, 0.7), generator.uniform(0.7, 0.95)),
    )


def _camera(generator: np.random.Generator, domain: int) -> Camera:
    uniform = generator.uniform
    height, aim = uniform(1.45, 1.75), np.array([0, uniform(0.55, 0.7), -4.4])
    focal, roll = 1.05, 0.0
    if domain == 2:
        height, aim = uniform(0.8, 2.7), np.array([0, uniform(0.35, 0.9), -uniform(3.8, 5.2)])
        focal, roll = uniform(0.85, 1.35), uniform(-0.07, 0.07)
    position = np.array([0, height, 0])
    back = (position - aim) / np.linalg.norm(position - aim)
    right = np.cross([np.sin(roll), np.cos(roll), 0], back)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), back]).astype(np.float32)
    return Camera(position.astype(np.float32), axes, focal)


def _backdrop(generator: np.random.Generator, domain: int) -> tuple[tuple[Plane, Material], ...]:
    """Ground, and walls: always a far wall in domain 1, an open sky in half of domain 2."""
    uniform = generator.uniform
    up = np.array([0, 1, 0], np.float32)
    ground = Material(hsv(uniform(0.05, 0.2), uniform(0.06, 0.28), uniform(0.68, 0.86)))
    wall = Material(hsv(uniform(), uniform(0.12, 0.38), uniform(0.7, 0.92)))
    if domain == 2:
        tint, value = uniform(), uniform(0.45, 0.85)
        colours = (hsv(tint, uniform(0.1, 0.5), value), hsv(tint + uniform(-0.1, 0.1), uniform(0.1, 0.6), value * 0.62))
        ground = patterned(generator, *colours, uniform(0.6, 1.8), "ground")
        tint, value = uniform(), uniform(0.6, 0.95)
        colours = (hsv(tint, uniform(0.1, 0.5), value), hsv(tint + uniform(-0.1, 0.1), uniform(0.1, 0.5), value * 0.75))
        wall = patterned(generator, *colours, uniform(0.6, 1.5), "wall")
    planes = [(Plane(up, 0.0), ground)]
    yaw = uniform(-0.4, 0.4) if domain == 2 else 0.0
    turned = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]], np.float32)
    far, aside, side = -uniform(7.5, 9.5), uniform(3.0, 4.2), (-1, 1)[generator.integers(2)]
    if domain == 1 or generator.random() < 0.5:
        planes.append((Plane(turned[:, 2].copy(), far), wall))
        if generator.random() < 0.4:
            planes.append((Plane((-side * turned[:, 0]).astype(np.float32), -aside), wall))
    return tuple(planes)
