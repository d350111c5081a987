"""Adaptation to a new task from a few images: split, measure, train a LoRA, measure again, report."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from diception.config import (
    AdapterConfig,
    DataConfig,
    FewShotConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    save_config,
)
from diception.datasets.folder import PairedFolder
from diception.datasets.mixture import Source, Stream
from diception.evaluation import HeldOut, Score, evaluate, evaluate_baselines, predictions
from diception.model.diception import Diception
from diception.model.lora import adapter_share, base_hash
from diception.model.weights import read_json, write_json
from diception.panel import predict_rows, save_panel
from diception.tasks import task_for_kind
from diception.training.build import build_model, check_same_run
from diception.training.datamodule import build_augment
from diception.training.run import fit, trained_path, write_model


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
        scores = {"before": self.before.as_dict(), "after": self.after.as_dict()}
        path.write_text(json.dumps(asdict(self) | scores, indent=1) + "\n")


def adapt(config: FewShotConfig, progress: Callable[[Iterable], Iterable] = iter) -> FewShotReport:
    """Learns the task of a folder and writes `adapter.safetensors`, `report.json` and `panel.png` to `config.out`.

    Raises:
        ValueError: folders that do not match, an unknown kind, a taken name, a file that cannot be read.
    """
    task = task_for_kind(config.kind, config.name)
    folder = PairedFolder(config.images, config.targets, config.kind)
    config = replace(config, out=config.out or f"runs/{config.name}")
    out = Path(config.out)
    train_images, held_images = folder.split(config.held_out or max(1, len(folder) // 3), config.seed)
    check_same_run(config, out / "few_shot.yaml")
    plan = _train_config(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(plan).to(device)
    if any(task.name == known["name"] or task.token == known["token"] for known in model.settings.tasks):
        raise ValueError(f"the model {config.model} already has a task {task.name!r}; choose another name")
    plan.data.size = size = config.size or model.settings.resolution
    held_out = HeldOut(task, held_images, len(held_images), size, config.seed)
    shown = HeldOut(task, train_images, len(train_images), size, config.seed)
    if not sum(1 for _ in shown):  # reads and paints every pair: a broken file is named before anything is written
        raise ValueError(f"none of the {len(train_images)} targets to train on can be painted as {config.kind}")
    seen = {"images": train_images.fingerprint(), "held_out": held_images.fingerprint(), "model": base_hash(model)}
    _check_same_data(seen, out / "data.json")
    before, _ = _measure(model, shown, held_out, config, progress)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "data.json", seen)
    save_config(config, out / "few_shot.yaml")
    source = Source(config.name, train_images, 1.0, {task.name: 1.0})
    augment = replace(config.augment, photometric=0.0) if task.follows_colors else config.augment
    stream = Stream([source], {task.name: task}, size, config.seed, build_augment(augment))
    module = fit(model, stream, [], plan)
    baselines = _baselines(shown, held_out)
    after, held_out = _measure(model.to(device), shown, held_out, config, progress)
    before.baselines = after.baselines = baselines
    model.settings.tasks = [*model.settings.tasks, held_out.task.as_dict()]
    write_model(module, plan, [held_out.task.as_dict()])
    report = FewShotReport(
        held_out.task.as_dict(), str(trained_path(plan)), adapter_share(model), len(train_images), before, after
    )
    report.save(out / "report.json")
    save_panel(predict_rows(model, held_out, config.sampling, 6), out / "panel.png")
    return report


def _check_same_data(seen: dict[str, str], path: Path) -> None:
    """Refuses to continue with other images or another model: what is measured could have been learned before.

    Raises:
        ValueError: names what differs.
    """
    before = read_json(path) if path.exists() else seen
    differ = [name for name, value in seen.items() if before.get(name) != value]
    if differ:
        raise ValueError(f"{path.parent} holds an adaptation with other {', '.join(differ)}; choose another folder")


def _measure(
    model: Diception, shown: HeldOut, held_out: HeldOut, config: FewShotConfig, progress: Callable[[Iterable], Iterable]
) -> tuple[Score, HeldOut]:
    """Score on the held-out images, with the decoder's free parameter, if any, fitted on the images trained on."""
    painted, truths = zip(*predictions(model, shown, config.sampling), strict=True)
    calibrated = copy.copy(held_out)
    calibrated.task = shown.task.calibrated(list(painted), list(truths))
    score = evaluate(model, calibrated, config.sampling, progress=progress)
    return score, calibrated


def _baselines(shown: HeldOut, held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Baselines on the held-out images, decoded as favourably as the model: fitted on the targets trained on."""
    targets = [example.target for example in shown]
    mean = np.mean([target.rgb for target in targets], axis=0)
    fair = copy.copy(held_out)
    fair.task = shown.task.calibrated([mean] * len(targets), [target.truth for target in targets])
    return evaluate_baselines(fair)


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
