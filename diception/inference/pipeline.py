"""`Pipeline`: a model directory that answers questions about images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diception.inference.adapted import LoadedAdapters
from diception.inference.answers import Answerer, Way
from diception.inference.prediction import Prediction
from diception.inference.requests import Checked, ImageInput, Request, check_points, working_size
from diception.model.adapters import AdapterInfo
from diception.model.autoencoder import load_autoencoder
from diception.model.checkpoint import load_model
from diception.model.memory import prepare
from diception.tasks import Task, task_from_dict

if TYPE_CHECKING:
    from diception.model.diception import Diception

GPU_BATCH = 4
"""Images at a time on a GPU, where nothing else is said; the paper fits 4 at 768 pixels in 24 GB."""


class Pipeline:
    """An exported model, ready to answer: `pipeline(image, task="depth").annotation`."""

    def __init__(self, model: Diception, tasks: Sequence[Task] | None = None):
        self.model = model
        tasks = tasks or [task_from_dict(entry) for entry in model.settings.tasks]
        self.tasks = {task.name: task for task in tasks}
        self.adapters = LoadedAdapters(model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        adapter: str | Path | Sequence[str | Path] | None = None,
        decoder: str | Path | None = None,
        quantize: str | None = None,
        offload: bool = False,
        compile_blocks: bool = False,
    ) -> Pipeline:
        """Loads a model directory (or `tiny`), and on top of it adapters with their tasks.

        Args:
            path: the model directory.
            device: where it computes.
            dtype: in which it computes.
            adapter: one or several made by `diception adapt` or `diception train` for this model, see `load_adapter`.
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
        several = isinstance(adapter, Sequence) and not isinstance(adapter, str)
        for one in adapter if several else [adapter] if adapter is not None else []:  # type: ignore[union-attr]
            pipeline.load_adapter(one)  # type: ignore[arg-type]
        if decoder is not None:
            model.decode_with(load_autoencoder(decoder).to(dtype))
        prepare(model, device, quantize, offload, compile_blocks)
        return pipeline

    def load_adapter(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        """Adds an adapter beside those that are loaded; the tasks that it learned are answered with it, others without.

        Args:
            path: made for this model by `diception adapt` or `diception train`.
            name: of the adapter; by default that of its first task.

        Raises:
            ValueError: as `model.adapters.load_adapter`; the pipeline is then as it was.
        """
        info = self.adapters.load(path, name)
        self.tasks |= {entry["name"]: task_from_dict(entry) for entry in info.tasks}
        return info

    def stack(self, weights: Mapping[str, float] | None) -> None:
        """From now on answers every task with these adapters together, each change times its weight.

        `{}` switches all adapters off; None goes back to every task's own adapter.

        Raises:
            ValueError: no adapter of a name is loaded, or a weight is not finite.
        """
        self.adapters.stack(weights)

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
            ValueError: unknown task, points missing or out of range, a category missing or not in the prompt bank, a
                seed out of range.
        """
        chosen = self.get_task(task)
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; it must be from 0 to 2^63 - 1")
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
        tile: bool | None = None,
        turns: bool | None = None,
        batch_size: int | None = None,
        progress: Callable[[Iterable], Iterable] = iter,
    ) -> Prediction | list[Prediction]:
        """Predicts one task for one image or a list of them.

        Args:
            image: PIL, (H, W, 3) uint8 array, (3, H, W) float tensor in [0, 1], or a path; a list gives a list.
            task: name of a task that the model knows.
            points: 1 to 5 (x, y) in [0, 1], for tasks prompted by points.
            category: for tasks prompted by category, for example `person`.
            steps: Euler steps; by default what the task's adapter or the model's settings say (28 as released).
            guidance_scale: runs guidance above 1; by default what these say (2 as released).
            seed: fixes the noise; the same for every image.
            noise: (B, 16, h/8, w/8) to start from instead; with B of 1, the same for every image.
            size: (h, w) at which the model works, multiples of 16; its own resolution, squared, by default.
            keep_aspect: works at nearly the image's aspect instead of a square.
            tile: works at `size`, or nearly the image's own, in overlapping windows of the model's resolution: for thin
                structures and large images, and for tasks whose painting at a place depends on its surroundings alone
                (masks, labels, normals, pictures). By default as the task's adapter was trained.
            turns: the mean of eight turned and mirrored views, for masks and pictures of what has no up and down. By
                default as the task's adapter was trained.
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
        options = (steps, guidance_scale, noise, size, keep_aspect, tile, turns, batch_size, progress)
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
        tile: bool | None = None,
        turns: bool | None = None,
        batch_size: int | None = None,
        progress: Callable[[Iterable], Iterable] = iter,
        unreadable: Callable[[int, ValueError], None] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """Answerer any mixture of questions, a batch at a time; the options are those of `__call__`.

        All questions and options are checked at once, before the first is answered; files are opened when their turn
        comes. One that does not decode is an error, or, where `unreadable` is given, told to it with its index and left
        out.

        Yields:
            A question's index and its answer. Questions of one working size are answered together.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if tile is None and (size is not None or keep_aspect):
            tile = False
        checked = [self.check(r.task, r.points, r.category, r.seed) for r in requests]
        resolution = self.model.settings.resolution
        if not checked:
            working_size(resolution, size, keep_aspect, bool(tile))  # refuses options all the same
        ways = []
        for question in checked:
            sampling = self.adapters.sampling(question.task, steps, guidance_scale, tile, turns)
            tiled, zoom = sampling.window > 0, sampling.zoom
            working = working_size(sampling.window or sampling.size or resolution, size, keep_aspect, tiled, zoom)
            lanczos = self.adapters.lanczos(question.task)
            ways.append(Way(working, sampling, self.adapters.weights(question.task), lanczos))
        questions = list(zip(requests, checked, ways, strict=True))
        at_a_time = batch_size or (1 if self.model.device.type == "cpu" else GPU_BATCH)
        return Answerer(self.model, self.adapters, noise, progress).answer(questions, at_a_time, unreadable)
