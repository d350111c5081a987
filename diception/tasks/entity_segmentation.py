"""Entity segmentation: every object its own colour, whatever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import Annotation, InstanceMasks
from diception.colors import label_components, overlay_masks
from diception.tasks.base import Array, Target, Task
from diception.tasks.instances import ENCODINGS, RecallEvaluator, paint, read


@dataclass(frozen=True, kw_only=True)
class EntitySegmentation(Task):
    """Encodings: `position` (colour says where), `palette` (26 colours), `random` (as released)."""

    type_name: ClassVar[str] = "entity_segmentation"
    kind: ClassVar[str] = "instances"
    encodings: ClassVar[tuple[str, ...]] = ENCODINGS
    released_encoding: ClassVar[str] = "random"

    def serves(self, annotation: InstanceMasks) -> bool:
        return bool(annotation.masks.any())

    def encode(self, annotation: InstanceMasks, generator: np.random.Generator) -> Target:
        rgb = paint(annotation, self.encoding, generator)
        return Target(rgb, np.ones(annotation.size, bool), self.prompt(), annotation)

    def decode(self, rgb: Array) -> InstanceMasks:
        return read(rgb, self.encoding)

    def evaluator(self) -> RecallEvaluator:
        return RecallEvaluator()

    def visualize(self, annotation: InstanceMasks, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        return overlay_masks(list(annotation.masks), image, annotation.size)

    def baselines(self, mean_rgb: Array, target: Target) -> dict[str, Annotation]:
        """The mean painting, and the connected components of the true foreground, which is told much of the answer."""
        assert isinstance(target.truth, InstanceMasks)
        labels, count = label_components(target.truth.union().mask)
        masks = labels[None] == np.arange(1, count + 1)[:, None, None]
        components = InstanceMasks(masks, ("",) * count)
        return {"mean image": self.decode(mean_rgb), "components of the true foreground": components}
