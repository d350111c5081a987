"""Inference: `generate`, the only denoising loop, and `Pipeline`, which turns an image into an annotation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diception.annotations import Annotation, save
from diception.config import SamplingConfig
from diception.datasets.images import to_rgb
from diception.datasets.sample import Batch
from diception.flow import seeded_noise
from diception.model.checkpoint import load_model
from diception.model.lora import load_adapter
from diception.sampler import guide, sample_euler, sigma_schedule
from diception.tasks import Task, task_from_dict
from diception.tasks.base import MAX_POINTS

if TYPE_CHECKING:
    from diception.model.diception import Diception

ImageInput = Image.Image | NDArray | Tensor


@torch.no_grad()
def generate(
    model: Diception,
    batch: Batch,
    sampling: SamplingConfig,
    noise: Tensor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """What the model paints for every image in the batch: (B, 3, H, W) RGB in [0, 1], float32; see `denoise`."""
    return model.decode(denoise(model, batch, sampling, noise, progress)).float()


@torch.no_grad()
def denoise(
    model: Diception,
    batch: Batch,
    sampling: SamplingConfig,
    noise: Tensor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Denoises the target of every image in the batch.

    Args:
        model: the model; its autoencoder encodes and decodes.
        batch: `image` (B, 3, H, W) in [0, 1] with prompts and points; `seeds` fixes the noise.
        sampling: steps and guidance. Guidance runs only above 1.
        noise: (B, 16, h, w) to start from instead.
        progress: wraps the loop over steps.

    Returns:
        (B, C, h, w) latents, float32.
    """
    image_latents = model.encode(batch.image)
    if noise is None:
        noise = seeded_noise(batch.seeds, tuple(image_latents.shape[1:]))
    noise = noise.to(image_latents)
    height, width = batch.image.shape[-2:]
    condition = model.condition(batch.prompts, batch.points, batch.point_mask, (height, width))
    unconditional = model.uncondition(len(noise)) if sampling.guidance_scale > 1 else None

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        sigmas = sigma.to(latents).expand(len(latents))
        if unconditional is None:
            return model.velocity(latents, sigmas, image_latents, condition)
        both = unconditional.join(condition)
        predicted = model.velocity(latents.repeat(2, 1, 1, 1), sigmas.repeat(2), image_latents.repeat(2, 1, 1, 1), both)
        without, given = predicted.chunk(2)
        return guide(without, given, sampling.guidance_scale)

    sigmas = sigma_schedule(sampling.steps, model.settings.shift)
    return sample_euler(velocity, noise, sigmas, progress)


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

    def save(self, path: str | Path) -> list[Path]:
        """Writes `<path>.<suffix>` (the annotation), `<path>.png` (a picture) and `<path>.rgb.png` (as painted)."""
        stem = Path(path)
        stem.parent.mkdir(parents=True, exist_ok=True)
        files = [stem.with_name(f"{stem.name}.{end}") for end in (self.annotation.suffix, "png", "rgb.png")]
        save(self.annotation, files[0])
        Image.fromarray(self.visualize()).save(files[1])
        Image.fromarray(to_uint8(self.rgb.cpu().numpy())).save(files[2])
        return files


class Pipeline:
    """An exported model, ready to answer: `pipeline(image, task="depth").annotation`."""

    def __init__(self, model: Diception, tasks: Sequence[Task] | None = None):
        self.model = model
        tasks = tasks or [task_from_dict(entry) for entry in model.settings.tasks]
        self.tasks = {task.name: task for task in tasks}

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        adapter: str | Path | None = None,
    ) -> Pipeline:
        """Loads a model directory (or `tiny`), and on top of it an adapter with its task.

        Raises:
            ValueError: no such model, files that do not match, an adapter made for another model.
        """
        model = load_model(path, device=device, dtype=dtype)
        pipeline = cls(model)
        if adapter is not None:
            task = task_from_dict(load_adapter(model, adapter).task)
            pipeline.tasks[task.name] = task
        return pipeline

    def get_task(self, name: str) -> Task:
        """The model's task of this name; a ValueError lists the ones it has."""
        if name not in self.tasks:
            raise ValueError(f"unknown task {name!r}; this model knows {', '.join(sorted(self.tasks))}")
        return self.tasks[name]

    def check(
        self, task: str, points: Sequence[tuple[float, float]] | None = None, category: str | None = None
    ) -> tuple[Task, NDArray[np.float32], str]:
        """The task, its points (n, 2) and its prompt.

        Raises:
            ValueError: unknown task, points missing or out of range, a category missing or not in the prompt bank.
        """
        chosen = self.get_task(task)
        array, prompt = check_points(chosen, points), chosen.prompt(category)
        if prompt not in self.model.bank.prompts:
            self.model.bank.add([prompt])
            self.model.bank.release_encoder()
        return chosen, array, prompt

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        task: str,
        points: Sequence[tuple[float, float]] | None = None,
        category: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        noise: Tensor | None = None,
        size: tuple[int, int] | None = None,
        progress: Callable[[Iterable], Iterable] = iter,
    ) -> Prediction | list[Prediction]:
        """Predicts one task for one image or a list of them.

        Args:
            image: PIL, (H, W, 3) uint8 array, or (3, H, W) float tensor in [0, 1]; a list is a batch.
            task: name of a task that the model knows.
            points: 1 to 5 (x, y) in [0, 1], for tasks prompted by points.
            category: for tasks prompted by category, for example `person`.
            steps: Euler steps; by default what the model's settings say (28 as released, 1 for `tiny`).
            guidance_scale: runs guidance above 1; by default what the model's settings say (2 as released).
            seed: fixes the noise; the same for every image of a batch.
            noise: (B, 16, h/8, w/8) to start from instead; with B of 1, the same for every image.
            size: (h, w) at which the model works, multiples of 16; its own resolution, squared, by default.

        Raises:
            ValueError: what `check` refuses, no picture, a bad size, noise of another shape.
        """
        many = isinstance(image, (list, tuple))
        images = [to_array(one) for one in (image if many else [image])]  # type: ignore[union-attr]
        chosen, array, prompt = self.check(task, points, category)
        height, width = size or (self.model.settings.resolution,) * 2
        if height % 16 or width % 16 or min(height, width) < 16:
            raise ValueError(f"size is {height} x {width}; both must be positive multiples of 16")
        if not images:
            return []
        batch = _batch(images, task, array, prompt, seed, (height, width)).to(self.model.device)
        if noise is not None:
            noise = self._noise(noise, len(images), height, width)
        sampling = SamplingConfig(
            steps=self.model.settings.steps if steps is None else steps,
            guidance_scale=self.model.settings.guidance_scale if guidance_scale is None else guidance_scale,
        )
        rgb = generate(self.model, batch, sampling, noise, progress)
        predictions = [
            Prediction(
                chosen, picture, painted, chosen.decode(painted.cpu().numpy()).resize(*picture.shape[:2], smooth=True)
            )
            for picture, painted in zip(images, rgb, strict=True)
        ]
        return predictions if many else predictions[0]

    def _noise(self, noise: Tensor, count: int, height: int, width: int) -> Tensor:
        """Given noise for every image, (count, C, h, w)."""
        autoencoder = self.model.autoencoder
        shape = (autoencoder.channels, height // autoencoder.factor, width // autoencoder.factor)
        if noise.ndim != 4 or noise.shape[1:] != shape or len(noise) not in (1, count):
            raise ValueError(f"noise has shape {tuple(noise.shape)}; expected {(count, *shape)}")
        return noise.expand(count, -1, -1, -1)


def to_array(image: ImageInput) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a PIL image, turned as its EXIF says, such an array, or a (3, H, W) tensor in [0, 1]."""
    if isinstance(image, Image.Image):
        return to_rgb(image.copy())
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"image tensor has shape {tuple(image.shape)}; expected (3, H, W)")
        if not image.is_floating_point() or not ((image >= 0) & (image <= 1)).all():
            raise ValueError(f"image tensor is {image.dtype} beyond [0, 1]; expected floats in [0, 1]")
        return to_uint8(image.cpu().numpy())
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image array is {array.dtype} of shape {array.shape}; expected uint8 (H, W, 3)")
    return array


def to_uint8(rgb: NDArray) -> NDArray[np.uint8]:
    """(3, H, W) float in [0, 1] to (H, W, 3) uint8."""
    return (np.clip(rgb.transpose(1, 2, 0), 0, 1) * 255 + 0.5).astype(np.uint8)


def check_points(task: Task, points: Sequence[tuple[float, float]] | None) -> NDArray[np.float32]:
    """(n, 2) array of the points, with n = 0 for tasks that take none; a ValueError says what is wrong with them."""
    if not task.takes_points:
        if points:
            raise ValueError(f"task {task.name!r} takes no points, but {len(points)} were given")
        return np.zeros((0, 2), np.float32)
    if not points or len(points) > MAX_POINTS:
        raise ValueError(f"task {task.name!r} needs 1 to {MAX_POINTS} points, but {len(points or [])} were given")
    array = np.asarray(points, np.float32)
    if array.shape != (len(points), 2) or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"points {list(points)} are out of range; each is (x, y) in [0, 1]")
    return array


def _batch(
    images: list[NDArray[np.uint8]],
    task: str,
    points: NDArray[np.float32],
    prompt: str,
    seed: int,
    size: tuple[int, int],
) -> Batch:
    squashed = [Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR) for picture in images]
    stacked = np.stack([np.asarray(picture) for picture in squashed]).transpose(0, 3, 1, 2)
    slots = torch.zeros(MAX_POINTS, 2)
    slots[: len(points)] = torch.from_numpy(points)
    count = len(images)
    return Batch(
        image=torch.from_numpy(stacked / np.float32(255)),
        target=None,
        valid=None,
        prompts=[prompt] * count,
        points=slots.expand(count, -1, -1).clone(),
        point_mask=(torch.arange(MAX_POINTS) < len(points)).expand(count, -1).clone(),
        tasks=[task] * count,
        keys=[str(index) for index in range(count)],
        seeds=torch.full((count,), seed, dtype=torch.int64),
        truths=[],
    )
