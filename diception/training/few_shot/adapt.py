"""One adaptation from its config, step by step; the same call goes on where an interrupted one stopped."""

from __future__ import annotations

import resource
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from diception.config import (
    FewShotConfig,
    SamplingConfig,
    TrainConfig,
    save_config,
)
from diception.datasets.folder import PairedFolder
from diception.datasets.mixture import Source, Stream
from diception.evaluation import HeldOut, Score
from diception.inference.requests import check_size
from diception.inference.turns import check_turns
from diception.model.diception import Diception
from diception.model.lora import NAME, adapter_config, adapter_names, adapter_share, base_hash
from diception.model.weights import write_json
from diception.panel import Row, save_panel
from diception.tasks import Task, task_for_kind
from diception.training.build import build_model, check_same_run
from diception.training.datamodule import build_augment
from diception.training.few_shot.curve import Curve
from diception.training.few_shot.forgetting import Forgetting
from diception.training.few_shot.measure import Measured, Progress, best_and_worst, fair_baselines, measure
from diception.training.few_shot.pairs import check_kind, check_same_data, label_names, open_folders, split_for_stopping
from diception.training.few_shot.recipe import augmentation, in_one_step, train_config
from diception.training.few_shot.report import FewShotReport
from diception.training.few_shot.times import Times
from diception.training.footprint import footprint
from diception.training.latents import LatentStream, encode
from diception.training.module import DiceptionModule
from diception.training.prompts import known_prompts
from diception.training.run import fit, stopped, trained_path, write_model


def adapt(config: FewShotConfig, progress: Progress = iter) -> FewShotReport | None:
    """Learns the task of a folder and writes adapter, `report.json`, `report.html` and `panel.png` to `config.out`.

    Returns:
        The report; None where a signal stopped the run, which goes on when it is called again.

    Raises:
        ValueError: folders that do not match, an unknown kind, a taken name, a file that cannot be read.
    """
    return Adaptation(config, progress).run()


class Adaptation:
    """Everything that its parts share: task, pairs, plan and how it is measured.

    `pairs` are trained on, `stopping` decide when to stop (None: nothing does), `held_images` are measured on.
    """

    def __init__(self, config: FewShotConfig, progress: Progress):
        """Opens and checks; nothing is written."""
        if config.zoom != 1 and not config.tile:
            raise ValueError(f"zoom is {config.zoom}, but images are only enlarged to be cut into windows: add tile")
        check_kind(config)
        labels = {"labels": label_names(config)} if config.names else {}
        self.task = task_for_kind(config.kind, config.name, **labels)
        config = replace(config, turns=config.turns or config.sampling.turns)
        check_turns(self.task, config.turns)
        self.config = config = in_one_step(replace(config, out=config.out or f"runs/{config.name}"))
        self.out, self.progress = Path(config.out), progress
        self.times = Times(self.out)
        pairs, self.held_images = open_folders(config)
        self.pairs, self.stopping = split_for_stopping(pairs, config)
        check_same_run(config, self.out / "few_shot.yaml", fixed=("steps",))
        for count in config.learning_curve:
            if not 0 < count < len(self.pairs):
                raise ValueError(f"learning_curve has {count}; allowed are 1 to {len(self.pairs) - 1}, below all pairs")
        self.plan = train_config(config)

    def run(self) -> FewShotReport | None:
        """Measure, train, measure, write."""
        with self.times.of("load"):
            model = self._model()
            shown, held_out = self._held_out(self.pairs), self._held_out(self.held_images)
            _check_targets(shown, self.config.kind)
            watched = held_out if self.stopping is None else self._deciding(self.stopping)
            self._remember(model)
        with self.times.of("measure before"):
            before = self._measure(model, shown, held_out)
            with self._as_trained(model):
                forgetting = Forgetting(model, self.config, self.progress)
        model.cpu()  # one at a time on the device
        smaller = []
        for count in self.config.learning_curve:
            if (point := self._smaller(count, held_out, watched)) is None:
                return None
            smaller.append(point)
        model.to(_device())
        with self.times.of_training("train"):
            learned = self._learn(model, self.pairs, watched, self.plan)
        if learned is None:
            return None
        module, curve = learned
        with self.times.of("measure after"):
            after = self._measure(model, shown, held_out)
            before.score.baselines = after.score.baselines = fair_baselines(shown, held_out)
            with self._as_trained(model):
                forgotten = forgetting.after(model, NAME if self.config.adapter else None)
        held_out.task = after.task
        self._write(module, after.task)
        save_panel(self._panel(model, after, held_out), self.out / "panel.png")
        report = self._report(module, curve, before.score, after)
        report.learning_curve = [*smaller, _point(len(self.pairs), after.score)] if smaller else []
        report.forgetting = forgotten
        report.save(self.out)
        return report

    @property
    def sampling(self) -> SamplingConfig:
        """How predictions are sampled, when measured and by default ever after."""
        sampling = replace(self.config.sampling, turns=self.config.turns)
        if not self.config.tile:
            return replace(sampling, size=self.config.size)
        return replace(sampling, window=self.plan.data.size, zoom=self.config.zoom)

    @property
    def zoom(self) -> float:
        """The scale at which images are cut into windows; 0: they are squashed."""
        return self.config.zoom if self.config.tile else 0.0

    def _model(self) -> Diception:
        """The base with a fresh adapter, on its device; fixes the size."""
        model = build_model(self.plan).to(_device())
        if any(self.task.name == known["name"] or self.task.token == known["token"] for known in model.settings.tasks):
            raise ValueError(f"{self.config.model} already has a task {self.task.name!r}; choose another name")
        prompts = ["", *known_prompts(self.task)]
        model.bank.add([prompt for prompt in prompts if prompt not in model.bank.prompts])
        model.bank.release_encoder()
        self.plan.data.size = size = self.config.size or model.settings.resolution
        check_size((size, size))
        if self.config.adapter is None:
            model.settings.resolution = size
        if self.config.tile and not self.task.local:
            raise ValueError(f"kind {self.config.kind} needs the whole picture at once; it cannot be tiled")
        return model

    def _held_out(self, pairs: PairedFolder) -> HeldOut:
        size, seed = self.plan.data.size, self.config.seed
        return HeldOut(self.task, pairs, len(pairs), size, seed, zoom=self.zoom)

    def _deciding(self, pairs: PairedFolder) -> HeldOut:
        """Those that decide when to stop, all of which can be read; a ValueError where none says anything."""
        deciding = self._held_out(pairs)
        if not len(deciding):
            raise ValueError(
                f"none of the {len(pairs)} pairs that decide when to stop has what {self.config.kind} needs"
            )
        return deciding

    def _remember(self, model: Diception) -> None:
        """Notes what is learned from what, or refuses to go on with something else."""
        seen = {"images": self.pairs.fingerprint(), "held_out": self.held_images.fingerprint()}
        if self.stopping is not None:
            seen["stopping"] = self.stopping.fingerprint()
        seen["model"] = base_hash(model)
        check_same_data(seen, self.out / "data.json")
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "data.json", seen)
        save_config(self.config, self.out / "few_shot.yaml")

    def _learn(
        self, model: Diception, pairs: PairedFolder, watched: HeldOut, plan: TrainConfig
    ) -> tuple[DiceptionModule, Curve] | None:
        """Trains, measuring on `watched` on the way; None where a signal stopped it."""
        shown = self._held_out(pairs)
        every = self.config.validate_every or (max(1, plan.steps // 20) if self.config.patience else 0)
        Path(plan.run).mkdir(parents=True, exist_ok=True)
        curve = Curve(
            lambda: measure(model, shown, watched, self.sampling, self.progress).score,
            every,
            self.config.patience,
            Path(plan.run) / "curve.jsonl",
        )
        module = fit(model, self._stream(model, pairs), [], plan, [curve])
        if stopped(module):
            return None
        module.to(_device())  # the trainer has brought it back to the CPU
        curve.keep_best(module.trained())
        return module, curve

    def _stream(self, model: Diception, pairs: PairedFolder) -> Stream | LatentStream:
        """What is trained on: every pair under ever new changes, or so many changes of each, encoded now."""
        augment = augmentation(self.config)
        source = Source(self.config.name, pairs, 1.0, {self.task.name: 1.0})
        tasks, size, seed = {self.task.name: self.task}, self.plan.data.size, self.config.seed
        stream = Stream([source], tasks, size, seed, build_augment(augment))
        if not self.config.cached:
            return stream
        examples = encode(model, stream, self.config.cached * len(pairs), self.progress)
        return LatentStream(stream.pairs, stream.seed, examples)

    def _smaller(self, count: int, held_out: HeldOut, watched: HeldOut) -> dict | None:
        """A point of the learning curve: the same steps on fewer pairs, from the same base."""
        with self.times.of_training(f"{count} images"):
            pairs = self.pairs.first(count, self.config.seed)
            plan = replace(self.plan, run=str(self.out / "learning_curve" / str(count)))
            model = self._model()
            if self._learn(model, pairs, watched, plan) is None:
                return None
            score = self._measure(model, self._held_out(pairs), held_out).score
        return _point(count, score)

    def _measure(self, model: Diception, shown: HeldOut, held_out: HeldOut) -> Measured:
        with self._as_trained(model):
            return measure(model, shown, held_out, self.sampling, self.progress)

    def _panel(self, model: Diception, after: Measured, held_out: HeldOut) -> list[Row]:
        with self._as_trained(model):
            return best_and_worst(model, after, held_out, self.sampling)

    def _as_trained(self, model: Diception) -> AbstractContextManager:
        """Under the precision of the training: a base in bfloat16 computes in nothing else."""
        mixed = self.config.precision == "bf16-mixed"
        return torch.autocast(model.device.type, torch.bfloat16, enabled=mixed)

    def _write(self, module: DiceptionModule, task: Task) -> None:
        model = module.model
        model.settings.tasks = [*model.settings.tasks, task.as_dict()]
        sampling = asdict(self.sampling)
        if self.config.adapter is None:
            model.settings.sampling[task.name] = sampling
        write_model(module, self.plan, [task.as_dict()], sampling)

    def _report(self, module: DiceptionModule, curve: Curve, before: Score, after: Measured) -> FewShotReport:
        model, adapted = module.model, bool(self.config.adapter)
        return FewShotReport(
            task=after.task.as_dict(),
            adapter=str(trained_path(self.plan)),
            share=adapter_share(model) if adapted else 1.0,
            images=len(self.pairs),
            before=before,
            after=after.score,
            steps=module.trainer.global_step,
            rank=adapter_config(model).r if NAME in adapter_names(model) else 0,
            seconds=self.times.seconds,
            memory_gb={"estimated": self._estimated(model) / 1e9, "peak": _peak() / 1e9},
            curve=curve.points,
            curve_on="images that decide when to stop" if self.stopping is not None else "held-out images",
        )

    def _estimated(self, model: Diception) -> float:
        """Bytes of the footprint with the autoencoder's weights."""
        vae = model.autoencoder
        tokens = model.bank[[""]][0].shape[1]
        taken = footprint(self.plan, dict(model.transformer.config), tokens, vae.pixel_bytes())
        return taken.total + sum(p.numel() * p.element_size() for p in vae.parameters())


def _check_targets(shown: HeldOut, kind: str) -> None:
    """Reads and paints every pair to train on, so that a broken file is named before anything is written.

    Raises:
        ValueError: no target can be painted, or all are of one colour, as empty masks are.
    """
    painted = [example.target.rgb for example in shown]
    if not painted:
        raise ValueError(f"none of {len(shown.reader)} targets to train on can be painted as {kind}")
    if all(np.ptp(rgb.reshape(3, -1), axis=1).max() == 0 for rgb in painted):
        raise ValueError(
            f"all {len(painted)} targets to train on are one plain colour, as masks that mark nothing or everything"
        )


def _point(images: int, score: Score) -> dict:
    return {"images": images, "metric": score.primary, "value": score.value}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _peak() -> float:
    """Bytes that this process had at most: of the GPU where there is one, else of main memory."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
