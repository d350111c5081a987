"""Many questions, answered a batch at a time: those of one size and one way of answering go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diception.config import SamplingConfig
from diception.inference.adapted import LoadedAdapters, Weights
from diception.inference.denoise import generate
from diception.inference.prediction import Prediction
from diception.inference.requests import Checked, Request, Size, make_batch, to_array

if TYPE_CHECKING:
    from diception.model.diception import Diception

MAX_WAITING = 8
"""So many batches of images at most wait for others of their size."""


@dataclass(frozen=True)
class Way:
    """How a question is answered; those of one way and one size are answered together."""

    working_of: Callable[[Size], Size] = field(compare=False)
    """The size at which an image is worked on."""
    sampling: SamplingConfig
    adapters: Weights
    lanczos: bool = False
    """How images are squashed, see `ModelSettings`."""


Question = tuple[Request, Checked, Way]
Opened = tuple[int, NDArray[np.uint8], Checked]
"""A question whose picture has been read: its index, (H, W, 3) pixels, what is asked."""


@dataclass
class Answerer:
    """A model that answers questions, a batch at a time.

    Args:
        model: answers them.
        adapters: loaded onto it; each way of answering says which of them it wants.
        noise: (B, C, h, w) to start from, for each question or, with B of 1, for all; None for what the seeds say.
        progress: wraps the loop over steps.
    """

    model: Diception
    adapters: LoadedAdapters
    noise: Tensor | None
    progress: Callable[[Iterable], Iterable]

    def answer(
        self, questions: Sequence[Question], at_a_time: int, unreadable: Callable[[int, ValueError], None] | None
    ) -> Iterator[tuple[int, Prediction]]:
        """Index and answer of each question, in no fixed order; `unreadable` as for `Pipeline.answer`."""
        known = set(self.model.bank.prompts)
        self.model.bank.add(dict.fromkeys(c.prompt for _, c, _ in questions if c.prompt not in known))
        self.model.bank.release_encoder()
        waiting: dict[tuple[Size, Way], list[Opened]] = {}
        for index, (request, checked, way) in enumerate(questions):
            try:
                picture = to_array(request.image)
                working = way.working_of(picture.shape[:2])
            except ValueError as error:
                if unreadable is None:
                    raise
                unreadable(index, error)
                continue
            alike = (working, way)
            waiting.setdefault(alike, []).append((index, picture, checked))
            full = sum(map(len, waiting.values())) == MAX_WAITING * at_a_time
            alike = max(waiting, key=lambda key: len(waiting[key])) if full else alike
            if full or len(waiting[alike]) == at_a_time:
                yield from self._batch(waiting.pop(alike), *alike, len(questions))
        for (working, way), group in waiting.items():
            yield from self._batch(group, working, way, len(questions))

    def _batch(self, group: Sequence[Opened], size: Size, way: Way, count: int) -> Iterator[tuple[int, Prediction]]:
        indices, pictures, asked = zip(*group, strict=True)
        batch = make_batch(pictures, asked, size, way.lanczos).to(self.model.device)
        start = None if self.noise is None else self._noise(self.noise, list(indices), count, size)
        self.adapters.activate(way.adapters)
        painted = generate(self.model, batch, way.sampling, start, self.progress)
        for (index, picture, question), rgb in zip(group, painted, strict=True):
            annotation = question.task.decode(rgb.cpu().numpy()).resize(*picture.shape[:2], smooth=True)
            yield index, Prediction(question.task, picture, rgb, annotation)

    def _noise(self, noise: Tensor, chosen: list[int], count: int, size: Size) -> Tensor:
        """Of the noise given for all `count` images, or for each of them, that of the chosen, (B, C, h, w)."""
        autoencoder = self.model.autoencoder
        shape = (autoencoder.channels, size[0] // autoencoder.factor, size[1] // autoencoder.factor)
        if noise.ndim != 4 or noise.shape[1:] != shape or len(noise) not in (1, count):
            raise ValueError(f"noise has shape {tuple(noise.shape)}; expected {(count, *shape)}")
        return noise.expand(count, -1, -1, -1)[chosen]
