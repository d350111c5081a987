"""What flows through the data world: a Sample (as stored), an Example (encoded for one task), a Batch (tensors)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diception.annotations import Annotation
    from diception.tasks.base import Target, Task


class Reduced(NamedTuple):
    """How an image that was decoded at a smaller scale than it is stored at stands for its sample."""

    size: tuple[int, int]
    """(H, W) of the sample, which its annotations have."""
    box: tuple[float, float, float, float]
    """(left, top, right, bottom) of the sample in the decoded image, in its pixels."""


@dataclass(eq=False)
class Sample:
    """One stored image with what is known about it; every annotation has the size of the image.

    Read for training, the image may be decoded smaller (`reduced`); every annotation keeps the size as stored, and
    `transforms` cut the same window from both.
    """

    key: str
    image: NDArray[np.uint8]
    """(H, W, 3) uint8."""
    annotations: dict[str, Annotation] = field(default_factory=dict)
    """By kind: "depth", "normal", "mask", "instances", "pose", "labels", "image"."""
    encoded: tuple[str, bytes] | None = None
    """(ending, bytes) of the file that `image` was read from, to be stored as they are; None: `image` is encoded."""
    reduced: Reduced | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image as stored, and of the annotations."""
        return self.reduced.size if self.reduced is not None else (self.image.shape[0], self.image.shape[1])


class CorruptSample(ValueError):
    """A sample that cannot be read: where it lies, its key and what is wrong."""

    def __init__(self, place: str, key: str, reason: str) -> None:
        super().__init__(place, key, reason)
        self.place, self.key, self.reason = place, key, reason

    def __str__(self) -> str:
        return f"{self.place}: sample {self.key!r}: {self.reason}"


class Reader(Protocol):
    """Random access to samples: shards, a folder of pairs, or a list in memory."""

    def __len__(self) -> int: ...

    def read(self, i: int, kinds: Collection[str] | None = None) -> Sample:
        """Decode the image and only these kinds of annotation (None: all it has). CorruptSample if that fails."""
        ...

    def kinds(self, i: int) -> frozenset[str]:
        """Kinds of annotation of sample i, without decoding anything."""
        ...

    def serving(self, kind: str) -> NDArray[np.int64]:
        """(n,) numbers of the samples that have this kind, in order."""
        ...


def read_reduced(reader: Reader, i: int, kinds: Collection[str] | None, at_least: int) -> Sample:
    """`Reader.read`, but the image may be decoded smaller, while both its sides have `at_least` pixels.

    A reader that can do so has a method `read_reduced(i, kinds, at_least)`; others read as ever.
    """
    smaller = getattr(reader, "read_reduced", None)
    return reader.read(i, kinds) if smaller is None else smaller(i, kinds, at_least)


def encode(task: Task, sample: Sample, generator: np.random.Generator) -> Target:
    """What a model learns about a sample, see `Task.encode`; a ValueError names the sample that cannot be painted."""
    try:
        return task.encode(sample.annotations[task.kind], generator)
    except ValueError as error:
        raise ValueError(f"sample {sample.key!r}: {error}") from error


class MemoryReader:
    """Samples held in memory: small sets, made once."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, i: int, kinds: Collection[str] | None = None) -> Sample:
        sample = self.samples[i]
        chosen = {k: a for k, a in sample.annotations.items() if kinds is None or k in kinds}
        return Sample(sample.key, sample.image, chosen)

    def kinds(self, i: int) -> frozenset[str]:
        return frozenset(self.samples[i].annotations)

    def serving(self, kind: str) -> NDArray[np.int64]:
        return np.array([i for i, s in enumerate(self.samples) if kind in s.annotations], dtype=np.int64)


@dataclass(eq=False)
class Example:
    """One sample encoded for one task: what a training step consumes."""

    image: NDArray[np.float32]
    """(3, H, W) float32 in [0, 1]."""
    target: Target
    task: str
    key: str
    seed: int
    """63-bit seed of this position's noise."""


@dataclass(eq=False)
class Batch:
    """Examples stacked into tensors. Plain and not frozen: Lightning moves it between devices by its fields."""

    image: Tensor
    """(B, 3, H, W) float32 in [0, 1]."""
    target: Tensor | None
    """(B, 3, H, W) float32 in [0, 1]; None at inference."""
    valid: Tensor | None
    """(B, 1, H, W), 1 where the loss counts, float32, or float16 beside latents from files; None at inference."""
    prompts: list[str]
    points: Tensor
    """(B, 5, 2) float32, (x, y) in [0, 1]; zeros where unused."""
    point_mask: Tensor
    """(B, 5) bool."""
    tasks: list[str]
    keys: list[str]
    seeds: Tensor
    """(B,) int64."""
    truths: list[Annotation] = field(default_factory=list)
    """What decoding should give back, for evaluation; empty at inference."""
    latents: Tensor | None = None
    """(B, 2, C, h, w) of image and target where they were encoded before; `valid` then is (B, 1, h, w), and the pixels
    are gone. float32, or float16 from files."""
    noise: Tensor | None = None
    """(B, C, h, w) float32, standard normal, where it is drawn already; then there are sigmas and drop_prompt, too."""
    sigmas: Tensor | None = None
    """(B,) float32 in (0, 1]."""
    drop_prompt: Tensor | None = None
    """(B,) bool: trained without prompt and points, for guidance."""

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, numbers: Sequence[int]) -> Batch:
        """The samples of these numbers."""
        picked = {f.name: _picked(getattr(self, f.name), numbers) for f in fields(self)}
        return Batch(**picked)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on `device`; numbers keep their type."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Called by the DataLoader when pin_memory is set."""
        return self._map(lambda tensor: tensor.pin_memory())


def _picked(value: Tensor | list | None, numbers: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        return value[list(numbers)]
    return [value[number] for number in numbers] if value else value


def join_batches(batches: Sequence[Batch]) -> Batch:
    """All samples of the batches, which have the same fields, in their order."""
    columns = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(Batch)}
    return Batch(**{name: _joined(column) for name, column in columns.items()})


def _joined(column: list[Any]) -> Any:
    if isinstance(column[0], Tensor):
        return torch.cat(column)
    return [value for values in column for value in values] if isinstance(column[0], list) else None


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples of one size; ValueError where sizes differ or there are none."""
    if not examples:
        raise ValueError("cannot collate 0 examples; at least 1 is needed")
    sizes = {example.image.shape for example in examples}
    if len(sizes) > 1:
        raise ValueError(f"examples of one batch must have one size, got {sorted(sizes)}")
    targets = [example.target for example in examples]
    return Batch(
        image=torch.from_numpy(np.stack([example.image for example in examples])),
        target=torch.from_numpy(np.stack([target.rgb for target in targets]).astype(np.float32, copy=False)),
        valid=torch.from_numpy(np.stack([target.valid for target in targets])[:, None].astype(np.float32)),
        prompts=[target.prompt for target in targets],
        points=torch.from_numpy(np.stack([target.points for target in targets]).astype(np.float32, copy=False)),
        point_mask=torch.from_numpy(np.stack([target.point_mask for target in targets]).astype(bool, copy=False)),
        tasks=[example.task for example in examples],
        keys=[example.key for example in examples],
        seeds=torch.tensor([example.seed for example in examples], dtype=torch.int64),
        truths=[target.truth for target in targets],
    )


def collate_training(examples: Sequence[Example]) -> Batch:
    """`collate` without the truths: many masks need not travel from a loader's process to be ignored."""
    return replace(collate(examples), truths=[])
