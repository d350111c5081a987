"""`Pipeline`: a model directory that answers questions about images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diception.config import SamplingConfig
from diception.inference.denoise import generate
from diception.inference.prediction import Prediction
from diception.inference.requests import (
    Checked,
    ImageInput,
    Request,
    check_points,
    check_size,
    fitting_size,
    make_batch,
    to_array,
)
from diception.model.autoencoder import load_autoencoder
from diception.model.checkpoint import load_model
from diception.model.lora import load_adapter
from diception.model.memory import prepare
from diception.tasks import Task, task_from_dict

if TYPE_CHECKING:
    from diception.model.diception import Diception

GPU_BATCH = 4
"""Images at a time on a GPU, where nothing else is said; the paper fits 4 at 768 pixels in 24 GB."""

MAX_WAITING = 8
"""So many batches of images at most wait for others of their size."""


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
        decoder: str | Path | None = None,
        quantize: str | None = None,
        offload: bool = False,
        compile_blocks: bool = False,
    ) -> Pipeline:
        """Loads a model directory (or `tiny`), and on top of it an adapter with its tasks.

        Args:
            path: the model directory.
            device: where it computes.
            dtype: in which it computes.
            adapter: made by `diception adapt` or `diception train` for this model.
            decoder: folder of an autoencoder of the same latents that decodes instead of the model's own.
            quantize: `int8` or `nf4`: the transformer's blocks in 8 or 4 bits; needs bitsandbytes.
            offload: weights wait on the CPU until they are needed: slower, in a fraction of the memory. With it, and
                with `quantize`, text encoders run on the CPU.
            compile_blocks: `torch.compile`; the first answer of every size takes minutes, the others less time.

        Raises:
            ValueError: no such model, files that do not match, an adapter made for another model, options that
                exclude each other.
        """
        waits = quantize is not None or offload
        model = load_model(path, device="cpu" if waits else device, dtype=dtype)
        pipeline = cls(model)
        if adapter is not None:
            adapted = [task_from_dict(task) for task in load_adapter(model, adapter).tasks]
            pipeline.tasks |= {task.name: task for task in adapted}
        if decoder is not None:
            model.decode_with(load_autoencoder(decoder).to(dtype))
        prepare(model, device, quantize, offload, compile_blocks)
        return pipeline

    def get_task(self, name: str) -> Task:
        """The model's task of this name, or whose token this is; a ValueError lists the ones it has."""
        tokens = {task.token: task for task in self.tasks.values()}
        if name not in self.tasks and name not in tokens:
            raise ValueError(f"unknown task {name!r}; this model knows {', '.join(sorted(self.tasks))}")
        return self.tasks.get(name) or tokens[name]

    def read_prompt(self, prompt: str) -> tuple[Task, str | None]:
        """Task and category of a prompt such as `[[image2semantic]] person`; a ValueError lists the known tokens."""
        for task in self.tasks.values():
            rest = prompt.strip().removeprefix(task.token)
            if rest != prompt.strip() and (not rest or rest[0].isspace()):
                if rest and not task.takes_category:
                    raise ValueError(f"prompt {prompt!r} says more than {task.token}; the task takes no category")
                return task, rest.strip() or None
        known = ", ".join(sorted(task.token for task in self.tasks.values()))
        raise ValueError(f"prompt {prompt!r} begins with no token that this model knows: {known}")

    def check(
        self,
        task: str,
        points: Sequence[tuple[float, float]] | None = None,
        category: str | None = None,
        seed: int = 0,
    ) -> Checked:
        """The question in the model's terms; nothing is encoded yet.

        Raises:
            ValueError: unknown task, points missing or out of range, a category missing or not in the prompt bank.
        """
        chosen = self.get_task(task)
        array, prompt = check_points(chosen, points), chosen.prompt(category)
        self.model.bank.check([prompt])
        return Checked(chosen, array, prompt, seed)

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
        keep_aspect: bool = False,
        batch_size: int | None = None,
        progress: Callable[[Iterable], Iterable] = iter,
    ) -> Prediction | list[Prediction]:
        """Predicts one task for one image or a list of them.

        Args:
            image: PIL, (H, W, 3) uint8 array, (3, H, W) float tensor in [0, 1], or a path; a list gives a list.
            task: name of a task that the model knows.
            points: 1 to 5 (x, y) in [0, 1], for tasks prompted by points.
            category: for tasks prompted by category, for example `person`.
            steps: Euler steps; by default what the model's settings say (28 as released, 1 for `tiny`).
            guidance_scale: runs guidance above 1; by default what the model's settings say (2 as released).
            seed: fixes the noise; the same for every image.
            noise: (B, 16, h/8, w/8) to start from instead; with B of 1, the same for every image.
            size: (h, w) at which the model works, multiples of 16; its own resolution, squared, by default.
            keep_aspect: works at nearly the image's aspect instead of a square.
            batch_size: images at a time; by default 1 on the CPU, 4 on a GPU. With 1 an image's answer does not depend,
                to the last bit, on the images beside it.
            progress: wraps the loop over steps.

        Raises:
            ValueError: what `check` refuses, no picture, a bad size, noise of another shape.
        """
        many = isinstance(image, (list, tuple))
        images: Sequence[ImageInput] = image if many else [image]  # type: ignore[assignment, list-item]
        requests = [Request(one, task, points, category, seed) for one in images]
        if not requests:
            self.check(task, points, category)
        options = (steps, guidance_scale, noise, size, keep_aspect, batch_size, progress)
        found = dict(self.answer(requests, *options))
        return [found[index] for index in range(len(found))] if many else found[0]

    def answer(
        self,
        requests: Sequence[Request],
        steps: int | None = None,
        guidance_scale: float | None = None,
        noise: Tensor | None = None,
        size: tuple[int, int] | None = None,
        keep_aspect: bool = False,
        batch_size: int | None = None,
        progress: Callable[[Iterable], Iterable] = iter,
        unreadable: Callable[[int, ValueError], None] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """Answers any mixture of questions, a batch at a time; the options are those of `__call__`.

        All questions are checked before the first is answered; files are opened when their turn comes. One that does
        not decode is an error, or, where `unreadable` is given, told to it with its index and left out.

        Yields:
            A question's index and its answer. Questions of one working size are answered together.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        settings = self.model.settings
        sampling = SamplingConfig(
            steps=settings.steps if steps is None else steps,
            guidance_scale=settings.guidance_scale if guidance_scale is None else guidance_scale,
        )
        checked = [self.check(r.task, r.points, r.category, r.seed) for r in requests]
        if size is not None and keep_aspect:
            raise ValueError("size and keep_aspect are both given; choose one")
        fixed = check_size(size or (settings.resolution, settings.resolution))
        known = set(self.model.bank.prompts)
        self.model.bank.add(dict.fromkeys(c.prompt for c in checked if c.prompt not in known))
        self.model.bank.release_encoder()
        at_a_time = batch_size or (1 if self.model.device.type == "cpu" else GPU_BATCH)
        waiting: dict[tuple[int, int], list[tuple[int, NDArray[np.uint8]]]] = {}
        for index, request in enumerate(requests):
            try:
                picture = to_array(request.image)
            except ValueError as error:
                if unreadable is None:
                    raise
                unreadable(index, error)
                continue
            working = fitting_size(picture.shape[:2], settings.resolution) if keep_aspect else fixed
            waiting.setdefault(working, []).append((index, picture))
            full = sum(map(len, waiting.values())) == MAX_WAITING * at_a_time
            working = max(waiting, key=lambda size: len(waiting[size])) if full else working
            if full or len(waiting[working]) == at_a_time:
                yield from self._answer_batch(waiting.pop(working), checked, working, sampling, noise, progress)
        for working, group in waiting.items():
            yield from self._answer_batch(group, checked, working, sampling, noise, progress)

    def _answer_batch(
        self,
        group: Sequence[tuple[int, NDArray[np.uint8]]],
        checked: Sequence[Checked],
        size: tuple[int, int],
        sampling: SamplingConfig,
        noise: Tensor | None,
        progress: Callable[[Iterable], Iterable],
    ) -> Iterator[tuple[int, Prediction]]:
        asked = [checked[index] for index, _ in group]
        batch = make_batch([picture for _, picture in group], asked, size).to(self.model.device)
        start = None if noise is None else self._noise(noise, [index for index, _ in group], len(checked), size)
        painted = generate(self.model, batch, sampling, start, progress)
        for (index, picture), question, rgb in zip(group, asked, painted, strict=True):
            annotation = question.task.decode(rgb.cpu().numpy()).resize(*picture.shape[:2], smooth=True)
            yield index, Prediction(question.task, picture, rgb, annotation)

    def _noise(self, noise: Tensor, chosen: list[int], count: int, size: tuple[int, int]) -> Tensor:
        """Of the noise given for all `count` images, or for each of them, that of the chosen, (B, C, h, w)."""
        autoencoder = self.model.autoencoder
        shape = (autoencoder.channels, size[0] // autoencoder.factor, size[1] // autoencoder.factor)
        if noise.ndim != 4 or noise.shape[1:] != shape or len(noise) not in (1, count):
            raise ValueError(f"noise has shape {tuple(noise.shape)}; expected {(count, *shape)}")
        return noise.expand(count, -1, -1, -1)[chosen]
