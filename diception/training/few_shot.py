"""Adaptation to a new task from a few images: split, measure, train a LoRA, measure again, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from diception.config import AdapterConfig, DataConfig, FewShotConfig, ModelConfig, OptimConfig, TrainConfig
from diception.datasets.folder import PairedFolder
from diception.datasets.mixture import Source, Stream
from diception.evaluation import HeldOut, Score, evaluate, evaluate_baselines, predictions
from diception.model.diception import Diception
from diception.model.lora import adapter_share
from diception.panel import predict_rows, save_panel
from diception.tasks import Task, task_for_kind
from diception.training.datamodule import build_augment
from diception.training.run import build_model, fit, write_model


@dataclass
class FewShotReport:
    """What an adaptation did, on images that it never saw."""

    task: dict
    adapter: str
    share: float
    """The adapter's parameters over the transformer's."""
    images: int
    """Images trained on."""
    before: Score
    """The model without the adapter."""
    after: Score

    def save(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def adapt(config: FewShotConfig, progress: Callable[[Iterable], Iterable] = iter) -> FewShotReport:
    """Learns the task of a folder and writes `adapter.safetensors`, `report.json` and `panel.png` to `config.out`.

    Raises:
        ValueError: folders that do not match, an unknown kind, a taken name, a file that cannot be read.
    """
    task = task_for_kind(config.kind, config.name)
    folder = PairedFolder(config.images, config.targets, config.kind)
    train_images, held_images = folder.split(config.held_out or max(1, len(folder) // 3), config.seed)
    plan = _train_config(config)
    model = build_model(plan)
    size = config.size or model.settings.resolution
    plan.data.size = size
    held_out = HeldOut(task, held_images, len(held_images), size, config.seed)
    shown = HeldOut(task, train_images, len(train_images), size, config.seed)
    if not sum(1 for _ in shown):  # reads and paints every pair: a broken file is named before anything is written
        raise ValueError(f"none of the {len(train_images)} targets to train on can be painted as {config.kind}")
    before = evaluate(model, held_out, config.sampling, progress=progress)
    before.baselines = evaluate_baselines(held_out)
    source = Source(config.name, train_images, 1.0, {task.name: 1.0})
    stream = Stream([source], {task.name: task}, size, config.seed, build_augment(config.augment))
    module = fit(model, stream, [], plan)
    task = _calibrated(model, task, shown, config)
    held_out.task = task
    after = evaluate(model, held_out, config.sampling, progress=progress)
    after.baselines = before.baselines
    model.settings.tasks = [*model.settings.tasks, task.as_dict()]
    report = FewShotReport(
        task.as_dict(), str(write_model(module, plan)), adapter_share(model), len(train_images), before, after
    )
    report.save(Path(config.out) / "report.json")
    save_panel(predict_rows(model, held_out, config.sampling, 6), Path(config.out) / "panel.png")
    return report


def _train_config(config: FewShotConfig) -> TrainConfig:
    return TrainConfig(
        run=config.out,
        seed=config.seed,
        steps=config.steps,
        batch_size=config.batch_size,
        precision=config.precision,
        validate_every=0,
        model=ModelConfig(base=config.model),
        data=DataConfig(size=config.size, workers=config.workers),
        flow=config.flow,
        optim=OptimConfig(lr=config.lr, warmup=max(1, config.steps // 20), schedule="cosine", ema=0.99),
        sampling=config.sampling,
        adapter=AdapterConfig(**asdict(config.adapter)),
    )


def _calibrated(model: Diception, task: Task, trained_on: HeldOut, config: FewShotConfig) -> Task:
    """The task with its decoder's free parameter, if it has one, fitted on the images trained on."""
    painted, truths = zip(*predictions(model, trained_on, config.sampling), strict=True)
    return task.calibrated([np.asarray(rgb) for rgb in painted], list(truths))
