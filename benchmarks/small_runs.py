"""Small models trained from nothing by `tiny/multitask` with changes, measured on rendered scenes, and kept."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from diception.config import TrainConfig
from diception.datasets.mixture import Reader
from diception.evaluation import Score, evaluate_tasks
from diception.model.diception import Diception
from diception.tables import write_report
from diception.training.build import build_model, build_tasks
from diception.training.datamodule import open_stream
from diception.training.run import fit, stopped

SIZE = 128
Scores = dict[str, float]
"""What a run reached: headline metrics by task, and what else is told of it."""


class Clock(L.Callback):
    """How much of the processor's time this process had taken at the end of each step: others do not count."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.process_time())

    def pace(self, settled: int) -> float:
        """Seconds of one core a step, the median of those after so many."""
        later = self.times[settled:]
        return statistics.median(b - a for a, b in zip(later, later[1:], strict=False))


def train_small(
    config: TrainConfig, change: Callable[[Diception], Diception] = lambda model: model, clock: Clock | None = None
) -> tuple[Diception, dict[str, Any]]:
    """Trains, or goes on; the model with its averaged weights, and the tasks.

    Raises:
        SystemExit: the training did not come to its end.
        FloatingPointError: it diverged.
    """
    model = change(build_model(config))
    tasks = build_tasks(config, model)
    module = fit(model, open_stream(config.data, tasks, config.seed), [], config, [clock] if clock else [])
    if stopped(module) or module.trainer.global_step < config.steps:
        raise SystemExit("stopped before its end; the same command goes on")
    return module.model, tasks


def measure(model: Diception, tasks: dict[str, Any], names: Sequence[str], config: TrainConfig, on: Reader) -> Scores:
    """Headline metrics of these tasks."""
    asked = [tasks[name] for name in names]
    return headlines(evaluate_tasks(model, asked, on, [config.sampling], len(on), SIZE, baselines=False))


def headlines(scores: Sequence[Score]) -> Scores:
    """By task and the name of its metric; of a task's protocols the first."""
    found: dict[str, Score] = {}
    for score in scores:
        found.setdefault(score.task, score)
    return {f"{task} {score.primary}": score.value for task, score in found.items()}


def note(folder: Path, asked: dict[str, Any]) -> None:
    """Refuses a folder with results of another command."""
    made = folder / "options.json"
    if made.exists() and (before := json.loads(made.read_text())) != asked:
        raise SystemExit(f"{folder} has results of {before}, asked is {asked}; choose another --out")
    write_report(made, asked)


def table(rows: dict[str, list[Scores]]) -> str:
    """Markdown: a row per variant, mean and standard deviation over the seeds of everything that is known of it."""
    columns = list(dict.fromkeys(name for runs in rows.values() for scores in runs for name in scores))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, runs in rows.items():
        known = [[scores[column] for scores in runs if column in scores] for column in columns]
        lines.append(f"| {name} | {' | '.join(_spread(values) for values in known)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3g}"
    return f"{mean} +- {statistics.stdev(values):.2g}" if len(values) > 1 else mean
