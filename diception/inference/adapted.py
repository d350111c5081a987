"""The adapters of a pipeline: which of them answers a task, and how it is sampled then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diception.config import SamplingConfig
from diception.inference.turns import check_turns
from diception.model.adapters import AdapterInfo, load_adapter, read_info
from diception.model.diception import Diception
from diception.model.lora import use_adapters
from diception.tasks import Task

Weights = tuple[tuple[str, float], ...] | None
"""Names and weights of the adapters that count; None: the model stays as it is."""


class LoadedAdapters:
    """Adapters on a model, by name: each answers the tasks that it learned, unless they are stacked."""

    def __init__(self, model: Diception):
        self.model = model
        self.infos: dict[str, AdapterInfo] = {}
        """What the loaded ones say of themselves, the newest last."""
        self.stacked: Weights = None
        """Those that answer every task; None: every task has the adapter that learned it."""

    def load(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        """Adds an adapter under a name, by default that of its first task; ValueError as `adapters.load_adapter`."""
        name = str(read_info(path).tasks[0]["name"]) if name is None else name
        self.infos[name] = load_adapter(self.model, path, name)
        return self.infos[name]

    def stack(self, weights: Mapping[str, float] | None) -> None:
        """These together for every task, each change times its weight; `{}`: none; None: every task its own."""
        use_adapters(self.model, weights or {})
        self.stacked = None if weights is None else tuple(weights.items())

    def weights(self, task: Task) -> Weights:
        """The adapters that answer a task; where none was loaded here, whatever whoever made the model has set."""
        if self.stacked is not None or not self.infos:
            return self.stacked
        learned = self._learned(task)
        return () if learned is None else ((learned.name, 1.0),)

    def activate(self, weights: Weights) -> None:
        """Makes these count and no others."""
        if weights is not None:
            use_adapters(self.model, dict(weights))

    def sampling(
        self,
        task: Task,
        steps: int | None = None,
        guidance_scale: float | None = None,
        tile: bool | None = None,
        turns: bool | None = None,
    ) -> SamplingConfig:
        """How a task is sampled: as given, else as the adapter that learned it says, else as the model does.

        Raises:
            ValueError: the task cannot be tiled or turned, or a value out of range.
        """
        settings, learned = self.model.settings, self._learned(task)
        own = {"steps": settings.steps, "guidance_scale": settings.guidance_scale, "window": 0}
        own |= learned.sampling if learned is not None else settings.sampling.get(task.name, {})
        if tile is not None:
            side = own["window"] or own.get("size") or settings.resolution
            own |= {"window": side} if tile else {"window": 0, "size": side}
        if own["window"] and not task.local:
            raise ValueError(f"task {task.name!r} needs the whole picture at once; it cannot be tiled")
        if turns is not None:
            own["turns"] = turns
        check_turns(task, bool(own.get("turns")))
        given = {"steps": steps, "guidance_scale": guidance_scale}
        return SamplingConfig(**(own | {name: value for name, value in given.items() if value is not None}))

    def lanczos(self, task: Task) -> bool:
        """Whether images are squashed as the released code does: not for what was learned here, from other pictures."""
        settings = self.model.settings
        return settings.lanczos and self._learned(task) is None and task.name not in settings.sampling

    def _learned(self, task: Task) -> AdapterInfo | None:
        """The adapter that was last loaded with this task."""
        learned = [info for info in self.infos.values() if any(entry["name"] == task.name for entry in info.tasks)]
        return learned[-1] if learned else None
