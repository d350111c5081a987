"""What each ray through a scene sees: surface, z-depth, normal, cast shadow and colour (N rays)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diception.datasets.synthetic.raycast import (
    MISS,
    Array,
    Rays,
    Solid,
    dot,
    hit_plane,
    hit_solid,
    solid_normals,
)
from diception.datasets.synthetic.scenes import FARTHEST, Scene
from diception.datasets.synthetic.textures import Material
from diception.datasets.synthetic.things import Thing

SKY = -1
SHADOWLESS = -16.0  # world z behind which no thing's shadow falls
# Samples around the centre of a pixel, in pixels; with the centre they make four.
SUBPIXELS = np.array([[0.36, 0.1], [-0.27, 0.27], [-0.09, -0.37]], np.float32)


@dataclass(frozen=True, eq=False)
class View:
    """What N rays see. A surface is SKY, a plane of the backdrop (0, 1, ...), or a solid after those."""

    surface: npt.NDArray[np.int16]  # (N,)
    depth: Array  # (N,) inf for sky
    normals: Array  # (3, N) world; zero for sky
    shadow: npt.NDArray[np.bool_]  # (N,) lit side, but the light is hidden
    colour: Array  # (3, N) linear RGB


def solids_of(scene: Scene) -> list[tuple[int, Solid, Material]]:
    """(thing, solid, material) in the order of surface numbers after the backdrop."""
    return [
        (number, solid, material)
        for number, thing in enumerate(scene.things)
        for solid, material in zip(thing.solids, thing.materials, strict=True)
    ]


def look(scene: Scene, pixels: Array, size: int) -> View:
    """Casts rays through image positions (2, N) of a size x size picture."""
    rays = scene.camera.rays(pixels, size)
    origin = scene.camera.position[:, None]
    surface, depth = _first(scene, origin, rays)
    points = origin + np.where(np.isfinite(depth), depth, 0) * rays
    normals, albedo, shine = _surfaces(scene, surface, points)
    facing = scene.light @ normals
    shadow = _shadow(scene, points, normals, facing)
    colour = _colour(scene, rays, points, normals, albedo, shine, np.where(shadow, 0, np.maximum(facing, 0)))
    colour = np.where(surface == SKY, _sky(scene, rays), _haze(scene, colour, depth))
    return View(surface, depth, normals, shadow, colour)


def _surfaces(scene: Scene, surface: npt.NDArray[np.int16], points: Array) -> tuple[Array, Array, Array]:
    """Normals (3, N), own colours (3, N) and shine (N,) of the surfaces at points (3, N)."""
    solids = solids_of(scene)
    normals, albedo = np.zeros_like(points), np.zeros_like(points)
    shine = np.zeros(points.shape[1], np.float32)
    # Sorted by surface, each one is a slice; numpy writes slices many times faster than scattered columns.
    order = np.argsort(surface, kind="stable")
    points = points.take(order, 1)
    bounds = np.searchsorted(surface[order], np.arange(len(scene.backdrop) + len(solids) + 1))
    for number, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        if first == last:
            continue
        at = points[:, first:last]
        if number < len(scene.backdrop):
            plane, material = scene.backdrop[number]
            normals[:, first:last] = plane.normal[:, None]
        else:
            _, solid, material = solids[number - len(scene.backdrop)]
            normals[:, first:last] = solid_normals(solid, at)
        albedo[:, first:last] = material.paint(at)
        shine[first:last] = material.shine
    back = np.empty_like(order)
    back[order] = np.arange(order.size)
    return normals.take(back, 1), albedo.take(back, 1), shine[back]


def _first(scene: Scene, origin: Array, directions: Array) -> tuple[npt.NDArray[np.int16], Array]:
    """The nearest surface along each ray and its z-depth."""
    depth = np.full(directions.shape[1], MISS, np.float32)
    surface = np.full(directions.shape[1], SKY, np.int16)
    for number, (plane, _) in enumerate(scene.backdrop):
        reach = hit_plane(plane, origin, directions)
        closer = (reach < depth) & (reach > 0) & (reach < FARTHEST)
        depth[closer], surface[closer] = reach[closer], number
    number = len(scene.backdrop)
    rays = Rays(origin, directions)
    for thing in scene.things:
        group = _group(thing, rays)
        for solid in thing.solids:
            index, reach = hit_solid(solid, rays, group)
            closer = reach < depth[index]
            index = index[closer]
            depth[index], surface[index] = reach[closer], number
            number += 1
    return surface, depth


def _group(thing: Thing, rays: Rays) -> npt.NDArray[np.intp] | None:
    """Rays worth trying against the solids of a thing; None (all) where one test would be made twice."""
    return None if len(thing.solids) == 1 else rays.near(thing.centre, thing.bound)[0]


def _shadow(scene: Scene, points: Array, normals: Array, facing: Array) -> npt.NDArray[np.bool_]:
    """Where a surface faces the light and another surface hides it. Walls hide nothing."""
    hidden = np.zeros(points.shape[1], bool)
    lit = np.flatnonzero((facing > 0.02) & (points[2] > SHADOWLESS))
    starts = points.take(lit, 1) + np.float32(3e-3) * normals.take(lit, 1)
    rays = Rays(starts, np.repeat(scene.light[:, None], lit.size, axis=1))
    for thing in scene.things:
        group = _group(thing, rays)
        for solid in thing.solids:
            index, reach = hit_solid(solid, rays, group)
            hidden[lit[index[np.isfinite(reach)]]] = True
    return hidden


def _colour(
    scene: Scene, rays: Array, points: Array, normals: Array, albedo: Array, shine: Array, direct: Array
) -> Array:
    """Lambert's law, light from the sky and the ground, shade near contacts, and a highlight."""
    ambient = 0.72 + 0.28 * normals[1]
    for thing in scene.things:
        centre, radius = thing.contact
        offset = centre[:, None] - points
        squared = dot(offset, offset)
        index = np.flatnonzero(squared < (4 * radius) ** 2)
        offset, squared = offset.take(index, 1), np.maximum(squared[index], radius * radius)
        # The share of the sky that a ball hides from a surface element.
        cover = np.maximum(dot(normals.take(index, 1), offset), 0) * radius**2 / (squared * np.sqrt(squared))
        ambient[index] *= 1 - 0.75 * np.minimum(cover, 1)
    colour = albedo * (scene.ambient[:, None] * ambient + scene.light_colour[:, None] * direct)
    glossy = np.flatnonzero((shine > 0) & (direct > 0))
    if glossy.size:
        toward = rays.take(glossy, 1)
        half = scene.light[:, None] - toward / np.sqrt(dot(toward, toward))
        cosine = dot(half, normals.take(glossy, 1)) / np.sqrt(dot(half, half))
        colour[:, glossy] += shine[glossy] * np.maximum(cosine, 0) ** 40
    return colour


def _sky(scene: Scene, rays: Array) -> Array:
    rise = np.clip(2.2 * rays[1] / np.sqrt(dot(rays, rays)), 0, 1)
    return scene.horizon[:, None] + (scene.zenith - scene.horizon)[:, None] * rise


def _haze(scene: Scene, colour: Array, depth: Array) -> Array:
    """Far ground fades into the horizon, so that its end is not a line."""
    clear = np.clip((FARTHEST - depth) / (FARTHEST - 10), 0, 1)
    return scene.horizon[:, None] + (colour - scene.horizon[:, None]) * clear


def smooth_edges(scene: Scene, view: View, size: int) -> Array:
    """Linear colours (3, N) of a full view, pixels on borders of surfaces or shadows averaged over four samples."""
    surface, shadow = view.surface.reshape(size, size), view.shadow.reshape(size, size)
    normals = view.normals.reshape(3, size, size)
    border = np.zeros((size, size), bool)
    for axis in (0, 1):
        here, there = [slice(None)] * 2, [slice(None)] * 2
        here[axis], there[axis] = slice(1, None), slice(None, -1)
        a, b = tuple(here), tuple(there)
        step = (surface[a] != surface[b]) | (shadow[a] != shadow[b])
        step |= np.einsum("ihw,ihw->hw", normals[(slice(None), *a)], normals[(slice(None), *b)]) < 0.7
        border[a] |= step
        border[b] |= step
    index = np.flatnonzero(border)
    pixels = np.stack([index % size, index // size]).astype(np.float32) + np.float32(0.5)
    samples = pixels[:, :, None] + SUBPIXELS.T[:, None]
    colour = np.minimum(view.colour, 1)
    fine = look(scene, samples.reshape(2, -1), size).colour.reshape(3, -1, len(SUBPIXELS))
    colour[:, index] = (colour[:, index] + np.minimum(fine, 1).sum(2)) / (1 + len(SUBPIXELS))
    return colour
