"""Image to image: the target is a picture itself (relighting, highlighting, denoising)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import Annotation, RGBImage
from diception.metrics import psnr
from diception.tasks.base import Array, MeanEvaluator, Target, Task


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """RGB in, RGB out."""

    type_name: ClassVar[str] = "image"
    kind: ClassVar[str] = "image"
    encodings: ClassVar[tuple[str, ...]] = ("rgb",)
    local: ClassVar[bool] = True
    turns: ClassVar[bool] = True
    follows_colors: ClassVar[bool] = True
    mirrors: ClassVar[bool] = False

    def encode(self, annotation: RGBImage, generator: np.random.Generator) -> Target:
        return Target(annotation.rgb, np.ones(annotation.size, bool), self.prompt(), annotation)

    def decode(self, rgb: Array) -> RGBImage:
        return RGBImage(np.clip(rgb, 0, 1).astype(np.float32))

    def evaluator(self) -> ImageEvaluator:
        return ImageEvaluator()

    def references(self, image: NDArray[np.uint8]) -> dict[str, Annotation]:
        """The image itself, as if nothing were to be changed."""
        return {"the image unchanged": RGBImage(image.transpose(2, 0, 1).astype(np.float32) / 255)}

    def visualize(self, annotation: RGBImage, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        return np.rint(annotation.rgb.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)


class ImageEvaluator(MeanEvaluator):
    """PSNR and mean absolute error per image, then their means."""

    protocol = "image/psnr"
    primary = "psnr"
    higher_is_better = True

    def measure(self, prediction: RGBImage, truth: RGBImage) -> dict[str, float]:
        mae = float(np.abs(prediction.rgb - truth.rgb).mean())
        return {"psnr": psnr(prediction.rgb, truth.rgb), "mae": mae}
