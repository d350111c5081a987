"""Readers of samples that are made when they are read, and the tasks they serve."""

from __future__ import annotations

import numpy as np

from diception.annotations import DepthMap, InstanceMasks, NormalMap
from diception.datasets.sample import CorruptSample, MemoryReader, Sample
from diception.tasks import get_task

TASKS = {name: get_task(name) for name in ("depth", "normal", "entity_segmentation", "point_segmentation")}


def random_sample(i: int, objects: int = 2, size: int = 40) -> Sample:
    rng = np.random.default_rng(i)
    normals = rng.normal(size=(3, size, size)).astype(np.float32)
    masks = np.zeros((objects, size, size), bool)
    for mask in masks:
        top, left = rng.integers(0, size - 14, 2)
        mask[top : top + 12, left : left + 12] = True
    return Sample(
        f"s{i:04d}",
        rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
        {
            "depth": DepthMap(rng.uniform(1, 9, (size, size)).astype(np.float32)),
            "normal": NormalMap(normals / np.linalg.norm(normals, axis=0)),
            "instances": InstanceMasks(masks, ("cup",) * objects, None),
        },
    )


class Broken(MemoryReader):
    """A reader of which some samples cannot be read."""

    def __init__(self, count: int, broken: set[int]) -> None:
        super().__init__([random_sample(i, size=32) for i in range(count)])
        self.broken = broken

    def read(self, i: int, kinds=None) -> Sample:
        if i in self.broken:
            raise CorruptSample("x.tar", f"s{i:04d}", "cut off")
        return super().read(i, kinds)


class Virtual:
    """Any number of samples, each made when it is read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, i: int, kinds=None, **options) -> Sample:
        sample = random_sample(0, size=16)
        return Sample(f"v{i}", sample.image, {"depth": sample.annotations["depth"]})

    def kinds(self, i: int) -> frozenset[str]:
        return frozenset(("depth",))

    def serving(self, kind: str) -> range:
        return range(self.count)
