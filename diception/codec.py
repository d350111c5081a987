"""The codec ceiling: what an autoencoder and an encoding let through, which bounds every model that uses them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from diception.datasets.sample import Example
from diception.tasks import Task

if TYPE_CHECKING:
    from diception.model.autoencoder import Autoencoder

CELL = 8
KINDS = ("white", "grid")


@dataclass(frozen=True)
class Disturbance:
    """Gaussian noise added to the decoded picture, as a stand-in for a model's error."""

    strength: float = 0.0
    """Deviation, of RGB in [0, 1]."""
    kind: str = "white"
    """`white`, drawn for every pixel, or `grid`, drawn for every latent cell (8 x 8 pixels) and interpolated, which is
    how the errors of a model that predicts latents look."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of noise is {self.kind!r}; allowed: {', '.join(KINDS)}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength of noise is {self.strength}; it must be in [0, 1]")

    def __str__(self) -> str:
        return f"{self.kind} {self.strength:g}" if self.strength else "clean"

    def apply(self, rgb: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """(3, H, W) in [0, 1] with noise that the seed fixes, still in [0, 1]."""
        if not self.strength:
            return rgb
        height, width = rgb.shape[1:]
        size = (height, width) if self.kind == "white" else (-(-height // CELL), -(-width // CELL))
        drawn = np.random.Generator(np.random.Philox(key=seed)).standard_normal((1, 3, *size), np.float32)
        noise = torch.from_numpy(drawn)
        if self.kind == "grid":
            noise = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
        return np.clip(rgb + self.strength * noise[0].numpy(), 0, 1).astype(np.float32)


CLEAN = Disturbance()


@dataclass
class Worst:
    """One sample as it went through."""

    key: str
    value: float
    """Its own headline metric."""
    image: NDArray[np.float32]
    painted: NDArray[np.float32]
    """(3, H, W) the target."""
    returned: NDArray[np.float32]
    """(3, H, W) the target behind the autoencoder and the noise."""
    truth: NDArray[np.uint8]
    """(H, W, 3) the annotation drawn for people."""
    decoded: NDArray[np.uint8]
    """(H, W, 3) what was read back."""


@dataclass
class Ceiling:
    """What one disturbance left of a task, under one protocol."""

    disturbance: Disturbance
    protocol: str
    primary: str
    higher_is_better: bool
    count: int
    metrics: dict[str, float]
    """The task's metrics, and PSNR in dB, without noise, of targets (`psnr_target`) and images (`psnr_image`)."""
    worst: list[Worst] = field(default_factory=list)
    """The worst samples first, by the main protocol."""


@torch.no_grad()
def codec_ceilings(
    autoencoder: Autoencoder,
    task: Task,
    examples: Iterable[Example],
    disturbances: Sequence[Disturbance] = (CLEAN,),
    keep_worst: int = 0,
    images: bool = True,
) -> list[Ceiling]:
    """Targets painted, encoded, decoded, disturbed, read back and scored.

    Args:
        autoencoder: encodes and decodes.
        task: paints and reads.
        examples: of the task; all of one size, a multiple of the autoencoder's factor.
        disturbances: of the decoded pictures, each scored by itself.
        keep_worst: so many samples are kept for a picture.
        images: also measures how well the input images survive, at twice the time.

    Returns:
        Ceilings for every disturbance, in their order, one for every protocol of the task, the main one first.
    """
    evaluators = [task.evaluators() for _ in disturbances]
    worst: list[list[Worst]] = [[] for _ in disturbances]
    errors: list[NDArray[np.float64]] = []
    for example in examples:
        pictures = torch.from_numpy(np.stack([example.target.rgb] + [example.image] * images))
        decoded = autoencoder.decode(autoencoder.encode(pictures))
        errors.append((decoded - pictures).square().mean(dim=(1, 2, 3)).double().numpy())
        for disturbance, own, kept in zip(disturbances, evaluators, worst, strict=True):
            returned = disturbance.apply(decoded[0].numpy(), example.seed)
            found = task.decode(returned)
            for evaluator in own:
                evaluator.update(found, example.target.truth)
            if keep_worst:
                kept.append(_sample(task, example, returned, found))
                kept.sort(key=lambda one: one.value, reverse=not own[0].higher_is_better)
                del kept[keep_worst:]
    names = ("psnr_target", "psnr_image")[: 1 + images]
    psnr = dict(zip(names, (-10 * np.log10(np.mean(errors, axis=0))).tolist(), strict=True)) if errors else {}
    return [
        Ceiling(
            disturbance,
            evaluator.protocol,
            evaluator.primary,
            evaluator.higher_is_better,
            len(errors),
            evaluator.compute() | psnr,
            kept,
        )
        for disturbance, own, kept in zip(disturbances, evaluators, worst, strict=True)
        for evaluator in own
    ]


def _sample(task: Task, example: Example, returned: NDArray[np.float32], found: object) -> Worst:
    alone = task.evaluator()
    alone.update(found, example.target.truth)  # type: ignore[arg-type]
    value = alone.compute()[alone.primary]
    picture = np.rint(example.image.transpose(1, 2, 0) * 255).astype(np.uint8)
    drawn = [task.visualize(annotation, picture) for annotation in (example.target.truth, found)]  # type: ignore[arg-type]
    # What cannot be scored is not among the worst.
    value = value if np.isfinite(value) else (np.inf if alone.higher_is_better else -np.inf)
    return Worst(example.key, float(value), example.image, example.target.rgb, returned, *drawn)
