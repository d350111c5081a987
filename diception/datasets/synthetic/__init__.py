"""Synthetic scenes with exact ground truth: a pure function of (seed, index, size, domain).

Domain 1 is easy: plain materials, one light, nearly one camera, boxes, spheres, cylinders and people in a room.
Domain 2 is hard: patterns, random light, sky or walls, a wide range of cameras, leaning things, three more categories.
Domain 3 is flat: blobs, cells or fibres under any brightness and contrast; instances, and a mask of what stands out.
Domain 4 is made of scenes like those of domain 1 before a thermal camera; the embedded model has never seen any.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from diception.datasets.sample import MemoryReader, Sample
from diception.datasets.synthetic.annotate import MASKS, annotate
from diception.datasets.synthetic.flat import flat_picture
from diception.datasets.synthetic.render import look, smooth_edges
from diception.datasets.synthetic.scenes import make_scene
from diception.datasets.synthetic.thermal import thermal
from diception.datasets.synthetic.things import CATEGORIES

DOMAINS = (1, 2, 3, 4)
FLAT = 3
"""The domain of pictures that are no scenes."""
THERMAL = 4
"""The domain of false colours."""
KINDS = ("depth", "normal", "instances", "pose", "mask")
HELD_OUT_SEED = 1_000_000
"""Scenes of this seed are for measuring, never for training."""
__all__ = [
    "CATEGORIES",
    "DOMAINS",
    "HELD_OUT_SEED",
    "KINDS",
    "MASKS",
    "THERMAL",
    "SyntheticScenes",
    "held_out_scenes",
    "render_scene",
]


def render_scene(seed: int, index: int, size: int, domain: int = 1, mask: str = "shadow") -> Sample:
    """Scene number `index` of a seed, size x size pixels, with every kind of annotation that its domain has.

    `mask` chooses what annotations["mask"] marks: "shadow" (ground and walls in cast shadow), "nearest" (the thing
    closest to the camera) or "ground" (ground in view). The scene itself does not depend on `size` or `mask`. A
    picture of domain 3 depends on its size, and its mask is always what stands out.
    """
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}; known: 1 (easy), 2 (hard), 3 (flat), 4 (thermal)")
    if mask not in MASKS:
        raise ValueError(f"unknown mask {mask!r}; known: {', '.join(MASKS)}")
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be at least 0, got {seed} and {index}")
    key = np.array([seed, index], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, domain]))
    if domain == FLAT:
        return Sample(_key(domain, seed, index), *flat_picture(generator, size))
    scene = make_scene(generator, 1 if domain == THERMAL else domain)
    rows, columns = np.mgrid[:size, :size].reshape(2, -1).astype(np.float32) + np.float32(0.5)
    view = look(scene, np.stack([columns, rows]), size)
    colour = smooth_edges(scene, view, size)
    display = np.clip(colour, 0, 1) ** np.float32(1 / 2.2)
    if domain == 2:
        display += np.float32(0.008) * generator.standard_normal(display.shape, np.float32)
    if domain == THERMAL:
        display = thermal(display.reshape(3, size, size), generator).reshape(3, -1)
    image = np.clip(np.rint(display * 255), 0, 255).astype(np.uint8).reshape(3, size, size).transpose(1, 2, 0)
    return Sample(_key(domain, seed, index), np.ascontiguousarray(image), annotate(scene, view, size, mask))


def _key(domain: int, seed: int, index: int) -> str:
    return f"synthetic{domain}-{seed}-{index:08d}"


@dataclass(frozen=True)
class SyntheticScenes:
    """The scenes 0 .. count - 1 of a seed as a data set; each is rendered when it is asked for.

    Scenes have a mask only where one is named: it stands for tasks that no model knows yet. Flat pictures have theirs.
    """

    count: int
    size: int
    domain: int = 1
    seed: int = 0
    mask: str = ""

    @property
    def made_by(self) -> str:
        """What shards of these scenes say of themselves."""
        return f"synthetic domain {self.domain} size {self.size} seed {self.seed} mask {self.mask}"

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        """Key of a scene."""
        return _key(self.domain, self.seed, index)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        sample = render_scene(self.seed, index, self.size, self.domain, self.mask or MASKS[0])
        if not self.mask and self.domain != FLAT:
            del sample.annotations["mask"]
        return sample


def held_out_scenes(
    count: int, size: int, domain: int, progress: Callable[[Iterable], Iterable] = iter, mask: str = ""
) -> MemoryReader:
    """Scenes for measuring, rendered once into memory, of a seed that no training uses."""
    scenes = SyntheticScenes(count, size, domain, HELD_OUT_SEED, mask)
    return MemoryReader([scenes[index] for index in progress(range(count))])
