"""What the model says about one image, and the files that it is saved as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diception.annotations import Annotation, save
from diception.tasks import Task


@dataclass
class Prediction:
    """What the model says about one image."""

    task: Task
    image: NDArray[np.uint8]
    """(H, W, 3), the input."""
    rgb: Tensor
    """(3, h, w) in [0, 1], what the model painted, at the model's size."""
    annotation: Annotation
    """Decoded, at the image's own size."""

    def visualize(self) -> NDArray[np.uint8]:
        """(H, W, 3) picture of the annotation."""
        return self.task.visualize(self.annotation, self.image)

    def save(self, path: str | Path, array: bool = False) -> list[Path]:
        """Writes `<path>.<suffix>` (the annotation), `<path>.png` (a picture) and `<path>.rgb.png` (as painted).

        Args:
            path: without an ending.
            array: also writes `<path>.npy`, the annotation's numbers at the image's size: depth (H, W), normals
                (3, H, W), masks (H, W) or (K, H, W), joints (N, 17, 3).
        """
        stem = Path(path)
        stem.parent.mkdir(parents=True, exist_ok=True)
        files = [stem.with_name(f"{stem.name}.{end}") for end in (self.annotation.suffix, "png", "rgb.png")]
        save(self.annotation, files[0])
        Image.fromarray(self.visualize()).save(files[1])
        Image.fromarray(to_uint8(self.rgb.cpu().numpy())).save(files[2])
        if array:
            files.append(stem.with_name(f"{stem.name}.npy"))
            np.save(files[-1], self.annotation.to_array())
        return files


def to_uint8(rgb: NDArray) -> NDArray[np.uint8]:
    """(3, H, W) float in [0, 1] to (H, W, 3) uint8."""
    return (np.clip(rgb.transpose(1, 2, 0), 0, 1) * 255 + 0.5).astype(np.uint8)
