"""What a model still knows of its own tasks under an adapter, and that it is untouched without."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from diception.config import FewShotConfig
from diception.datasets.sample import Reader
from diception.datasets.shards import ShardReader
from diception.datasets.synthetic import held_out_scenes
from diception.evaluation import HeldOut, Score, evaluate
from diception.inference.adapted import LoadedAdapters
from diception.model.diception import Diception
from diception.model.lora import use_adapters
from diception.tasks import task_from_dict
from diception.training.few_shot.measure import Progress, paintings

BIT_EQUAL = 2
"""Pictures of each task that are compared bit for bit."""


@dataclass
class Forgotten:
    """One of the model's own tasks, by its headline metric."""

    task: str
    metric: str
    higher_is_better: bool
    before: float
    adapted: float
    """With the adapter on."""
    off: float | None
    """With the adapter switched off; None where there is none and the model itself was trained."""
    bit_equal: bool | None
    """Whether the model then paints, bit for bit, what it did before."""

    def as_dict(self) -> dict:
        """For a JSON file."""
        return asdict(self)


class Forgetting:
    """The model's own tasks on fixed samples, measured before it is adapted and after."""

    def __init__(self, model: Diception, config: FewShotConfig, progress: Progress):
        """Measures now, without an adapter that counts; with `config.forgetting` 0 there is nothing to measure."""
        own = LoadedAdapters(model)
        self.ways = {entry["name"]: own.sampling(task_from_dict(entry)) for entry in model.settings.tasks}
        """How each of the model's tasks is sampled."""
        self.asked = self._asked(model, config, progress) if config.forgetting else []
        self.progress = progress if self.asked else iter  # no bar over nothing
        self.before = self._scores(model)
        self.painted = self._paintings(model)

    def after(self, model: Diception, adapter: str | None) -> list[Forgotten]:
        """Measures again; `adapter` None: the model itself was trained, and nothing can be switched off."""
        adapted = self._scores(model)
        off, equal = [None] * len(adapted), None
        if adapter is not None and self.asked:
            use_adapters(model, {})
            off = [score.value for score in self._scores(model)]
            equal = self._paintings(model) == self.painted
            use_adapters(model, {adapter: 1.0})
        return [
            Forgotten(b.task, b.primary, b.higher_is_better, b.value, a.value, o, equal)
            for b, a, o in zip(self.before, adapted, off, strict=True)
        ]

    def _scores(self, model: Diception) -> list[Score]:
        return [evaluate(model, one, self.ways[one.task.name]) for one in self.progress(self.asked)]

    def _paintings(self, model: Diception) -> list[bytes]:
        """Of every task a few, as bytes."""
        return [p for one in self.asked for p in paintings(model, [one], self.ways[one.task.name], BIT_EQUAL)]

    def _asked(self, model: Diception, config: FewShotConfig, progress: Progress) -> list[HeldOut]:
        """The model's tasks that the data serves: of the shards that the config names, else of rendered scenes."""
        tasks = [task_from_dict(entry) for entry in model.settings.tasks]
        sides = {name: way.window or way.size or model.settings.resolution for name, way in self.ways.items()}
        zooms = {name: way.zoom if way.window else 0.0 for name, way in self.ways.items()}
        reader: Reader = (
            ShardReader(config.forgetting_shards)
            if config.forgetting_shards
            else held_out_scenes(config.forgetting, max(sides.values()), 1, progress)
        )
        asked = [HeldOut(t, reader, config.forgetting, sides[t.name], zoom=zooms[t.name]) for t in tasks]
        return [one for one in asked if len(one)]
