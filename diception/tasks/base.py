"""The task: what is painted for an annotation, how it is read back, and how a prediction is judged."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from diception.annotations import Annotation

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_POINTS = 5
PAINTING = 2
"""One more whenever what a task paints changes, so that examples encoded before are not mixed with new ones."""
Array = NDArray[np.float32]


@dataclass(eq=False)
class Target:
    """All that a model learns about a sample."""

    rgb: Array
    """(3, H, W) float32 in [0, 1]."""
    valid: NDArray[np.bool_] | Array
    """(H, W), where the loss counts, or how much, in [0, 1]."""
    prompt: str
    truth: Annotation
    """What decoding should give back; for evaluation only."""
    points: Array = field(default_factory=lambda: np.zeros((MAX_POINTS, 2), np.float32))
    """(5, 2) float32, (x, y) in [0, 1]; zeros where unused."""
    point_mask: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(MAX_POINTS, bool))
    """(5,)."""


class Evaluator(ABC):
    """Gathers predictions against truths; evaluators of several processes merge into one."""

    protocol: str
    """Name of how it measures, stored with every number."""
    primary: str
    """Headline metric of `compute`."""
    higher_is_better: bool

    @abstractmethod
    def update(self, prediction: Annotation, truth: Annotation) -> None:
        """Adds one image; both have the same size."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Adds what another evaluator has gathered."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The metrics; nan where nothing was gathered."""


class MeanEvaluator(Evaluator):
    """Metrics per image, then their mean over images."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    @abstractmethod
    def measure(self, prediction: Any, truth: Any) -> dict[str, float] | None:
        """One image's metrics by name; None where the truth says nothing."""

    def update(self, prediction: Annotation, truth: Annotation) -> None:
        row = self.measure(prediction, truth)
        if row is not None:
            self.rows.append(row)

    def merge(self, other: Self) -> None:
        self.rows.extend(other.rows)

    def compute(self) -> dict[str, float]:
        if not self.rows:
            return {self.primary: math.nan}
        # fsum: the same number whatever the order of images.
        return {name: math.fsum(row[name] for row in self.rows) / len(self.rows) for name in self.rows[0]}


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One thing a model can be asked for. All knowledge about it is in its file."""

    name: str
    token: str
    """What the prompt says, such as `[[image2depth]]`."""
    encoding: str = ""
    """How the target is painted; empty: the first of `encodings`. Stored with the model: it is decoded as trained."""

    type_name: ClassVar[str]
    kind: ClassVar[str]
    """Kind of annotation that it is encoded from."""
    encodings: ClassVar[tuple[str, ...]]
    released_encoding: ClassVar[str] = ""
    """The encoding that the released weights were trained with; empty: they do not know the task."""
    takes_points: ClassVar[bool] = False
    """Whether it is prompted by points."""
    takes_category: ClassVar[bool] = False
    """Whether it is prompted by a category."""
    local: ClassVar[bool] = False
    """Whether what is painted at a place depends on its surroundings alone, so that windows of a picture may be painted
    one by one: not depth, which is painted from the nearest to the farthest, nor objects in colours of their own."""
    turns: ClassVar[bool] = False
    """Whether what is painted turns with the picture, so that paintings of turned pictures may be turned back and
    averaged: not directions, sides of a body, colours that name a place, nor colours whose mean is a third one."""
    fitted: ClassVar[bool] = False
    """Whether the decoder has a free parameter that `calibrated` fits."""
    follows_colors: ClassVar[bool] = False
    """Whether the target's colours follow the image's, so that the image must not be recoloured alone."""
    mirrors: ClassVar[bool] = True
    """Whether the mirror image of a picture has the mirrored target: not where light, say, comes from one side."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):  # it names files
            raise ValueError(f"task name {self.name!r} is not allowed: letters, digits, '_' and '-' only")
        if not self.encoding:
            object.__setattr__(self, "encoding", self.encodings[0])
        if self.encoding not in self.encodings:
            raise ValueError(f"task {self.name!r}: encoding {self.encoding!r}, allowed are {', '.join(self.encodings)}")

    def prompt(self, category: str | None = None) -> str:
        """The text the model reads."""
        if self.takes_category and not category:
            raise ValueError(f"task {self.name!r} needs a category, for example 'person'")
        if category and not self.takes_category:
            raise ValueError(f"task {self.name!r} takes no category, {category!r} was given")
        return f"{self.token} {category}" if category else self.token

    def serves(self, annotation: Annotation) -> bool:
        """Whether the annotation can be encoded; if not, the sample is not used for this task."""
        return True

    @abstractmethod
    def encode(self, annotation: Annotation, generator: np.random.Generator) -> Target:
        """Paints the annotation; draws (points, category, colours) come from the generator."""

    @abstractmethod
    def decode(self, rgb: Array) -> Annotation:
        """Reads a painted (3, H, W) picture at its own size."""

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """A fresh evaluator of this task's main protocol."""

    def evaluators(self) -> list[Evaluator]:
        """Fresh evaluators of all its protocols, the main one first."""
        return [self.evaluator()]

    @abstractmethod
    def visualize(self, annotation: Annotation, image: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(H, W, 3) picture for people; over the image (H, W, 3) where that helps."""

    def baselines(self, mean_rgb: Array, target: Target) -> dict[str, Annotation]:
        """Predictions that ignore the image, by name; `mean_rgb` (3, H, W) is the mean target of the same prompt."""
        return {"mean image": self.decode(mean_rgb)}

    def measured(self) -> Task:
        """The task without what only training needs, such as targets that are empty on purpose."""
        return self

    def variants(self) -> list[Task]:
        """What an evaluation measures: the task itself, or the task under several conditions, each a protocol."""
        return [self]

    def references(self, image: NDArray[np.uint8]) -> dict[str, Annotation]:
        """What classical methods see in the image (H, W, 3) alone, by name; most tasks name none."""
        return {}

    def calibrated(self, found: Iterable[tuple[Array, Annotation]]) -> Task:
        """The task with the decoder's free parameter fitted to pictures (3, H, W) and truths; most have none."""
        return self

    def as_dict(self) -> dict[str, Any]:
        """All fields, for a JSON file."""
        return {"type": self.type_name, **asdict(self)}


def check_share(name: str, value: float) -> None:
    """ValueError unless the value is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; allowed: 0 to 1 (a share)")


def spread(values: NDArray[Any]) -> Array:
    """(H, W) as three equal channels, float32."""
    return np.repeat(values[None].astype(np.float32), 3, axis=0)
