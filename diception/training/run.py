"""A whole training run from its config: build, resume, fit, and write the model or the adapter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from diception.config import TrainConfig, save_config
from diception.datasets.mixture import Stream
from diception.evaluation import HeldOut
from diception.inference.turns import check_turns
from diception.lock import only_writer
from diception.model.adapters import save_adapter
from diception.model.checkpoint import is_stable_diffusion, save_model
from diception.model.diception import Diception
from diception.training.build import base_model, build_model, build_tasks, check_same_run
from diception.training.callbacks import SameStep, Watch
from diception.training.checkpoints import (
    NewestCheckpoints,
    WholeCheckpointIO,
    newest_checkpoint,
    remove_partial,
    set_aside_damaged,
)
from diception.training.datamodule import StreamModule, open_held_out, open_stream
from diception.training.latents import LatentStream
from diception.training.loggers import build_loggers
from diception.training.module import DiceptionModule
from diception.training.optim import EMA
from diception.training.prompts import fill_bank
from diception.training.sharding import build_strategy, check_strategy, gather, is_sharded
from diception.training.stopping import Stop
from diception.training.validation import Validation


def train(config: TrainConfig, callbacks: Sequence[L.Callback] = ()) -> Path | None:
    """Trains from the config and writes `<run>/model` (or `<run>/adapter.safetensors`); the same call resumes.

    Args:
        config: the run.
        callbacks: more of Lightning's callbacks, for example one that stops early.

    Returns:
        The folder of the trained model, or the adapter, with the averaged weights; None where a signal stopped the run,
        which goes on when it is called again. An adapter on Stable Diffusion 3 goes with the model directory
        `<run>/base`: Stable Diffusion 3 with points, which were trained, too.

    Raises:
        ValueError: the config names something that is not there, or does not fit together.
    """
    model = build_model(config)
    tasks = build_tasks(config, model)
    stream = open_stream(config.data, tasks, config.seed)
    module = fit(model, stream, open_held_out(config.data, tasks), config, callbacks)
    if stopped(module):
        return None
    names = sorted({name for source in config.data.sources for name in source.tasks})
    used = {name: tasks[name].measured().as_dict() for name in names}
    model.settings.tasks = list(({entry["name"]: entry for entry in model.settings.tasks} | used).values())
    write_model(module, config, list(used.values()), _sampling(config, model, names))
    return trained_path(config)


def fit(
    model: Diception,
    stream: Stream | LatentStream,
    held_out: list[HeldOut],
    config: TrainConfig,
    callbacks: Sequence[L.Callback] = (),
) -> DiceptionModule:
    """Trains on from the newest checkpoint of the run folder, if there is one; leaves the averaged weights in."""
    folder = Path(config.run)
    check_strategy(config)
    check_same_run(config, folder / "config.yaml")
    for one in held_out:
        check_turns(one.task, config.sampling.turns)
    names = sorted({pair.task.name for pair in stream.pairs})
    module = DiceptionModule(model, config, names)
    data = StreamModule(stream, model, config, module.drawing)
    module.configure_optimizers()  # as all above the folder: refuses what does not fit before anything is written
    ema = EMA(config.optim.ema) if config.optim.ema else None
    batch_size = config.batch_size // (config.accumulate * config.devices * config.nodes)
    validation = Validation(held_out, config.sampling, config.validate_every, folder, ema, batch_size)
    checkpoint = newest_checkpoint(folder)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    stop = Stop(config.max_minutes, folder, config.keep_checkpoints)
    watching = [stop, SameStep(), *(c for c in (ema, validation) if c), *callbacks, Watch(config)]
    module.trainer = trainer = _trainer(config, folder, watching, checkpoint)
    with stop.listening(trainer), only_writer(folder) if trainer.is_global_zero else nullcontext():
        if newest_checkpoint(folder) != checkpoint:
            raise ValueError(f"another process has just written to {folder}; the same command goes on from there")
        if trainer.is_global_zero:
            save_config(config, folder / "config.yaml")
            remove_partial(folder)
            set_aside_damaged(folder)
        fill_bank(model.bank, stream.pairs, folder)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            try:
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
            except SystemExit:
                if trainer.interrupted:  # which Lightning ends with a status of its own
                    raise KeyboardInterrupt from None
                raise
    if not stop.at_once:
        _keep_averages(module, ema)
    return module


def _sampling(config: TrainConfig, model: Diception, names: Sequence[str]) -> dict[str, Any]:
    """What tasks that were trained here must be sampled with; a whole model remembers it, an adapter brings it."""
    own: dict[str, Any] = {}
    if config.data.size != model.settings.resolution:
        own["size"] = config.data.size
    if config.flow.start == "zero":
        own |= {"start": "zero", "steps": 1, "guidance_scale": config.sampling.guidance_scale}
    if config.adapter is None:  # what they were sampled with before is no longer so
        kept = {name: way for name, way in model.settings.sampling.items() if name not in names}
        model.settings.sampling = kept | ({name: dict(own) for name in names} if own else {})
    return own


def stopped(module: DiceptionModule) -> bool:
    """Whether a signal ended the fit; the same call goes on."""
    callbacks: list[L.Callback] = module.trainer.callbacks  # type: ignore[attr-defined]
    return any(callback.asked for callback in callbacks if isinstance(callback, Stop))


@torch.no_grad()
def _keep_averages(module: DiceptionModule, ema: EMA | None) -> None:
    """Leaves the averaged weights in the module's model, which is made anew and whole where it was in pieces."""
    final = gather(ema.average if ema is not None else module.trained())
    if is_sharded(module.model):
        bank, settings = module.model.bank, module.model.settings
        module.model = build_model(module.config)
        module.model.bank, module.model.settings = bank, settings
    for name, parameter in module.trained().items():
        if name in final:  # pieces are put together on rank 0 alone
            parameter.copy_(final[name])
    module.eval()


@rank_zero_only
def write_model(
    module: DiceptionModule,
    config: TrainConfig,
    tasks: Sequence[dict[str, Any]],
    sampling: dict[str, Any] | None = None,
) -> None:
    """Writes the adapter of an adapter run with its tasks and sampling, else the whole model, to `trained_path`.

    An adapter on Stable Diffusion 3 goes with `<run>/base`, which is Stable Diffusion 3 with points that were trained.
    """
    steps = module.trainer.global_step
    summary = {"steps": steps, "batch_size": config.batch_size, "lr": config.optim.lr, "seed": config.seed}
    before, module.model.settings.training = module.model.settings.training, summary
    target = trained_path(config)
    if config.adapter is not None:
        save_adapter(module.model, target, tasks, training=summary, sampling=sampling)
        if is_stable_diffusion(config.model.base):
            _write_base(module, config)
    else:
        if before:
            summary["before"] = before
        module.model.settings.lanczos = False
        save_model(module.model, target)


def _write_base(module: DiceptionModule, config: TrainConfig) -> None:
    base = base_model(config)
    base.points, base.bank = module.model.points, module.model.bank
    save_model(base, Path(config.run) / "base")


def trained_path(config: TrainConfig) -> Path:
    """Where a run leaves what it has trained."""
    return Path(config.run) / ("model" if config.adapter is None else "adapter.safetensors")


def _trainer(config: TrainConfig, folder: Path, callbacks: list[L.Callback], resumed: Path | None) -> L.Trainer:
    # Lightning would save and requeue by itself, beside the run folder; the job script does that.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return L.Trainer(
        default_root_dir=folder,
        accelerator="auto",
        strategy=build_strategy(config),
        devices=config.devices,
        num_nodes=config.nodes,
        precision=config.precision,  # type: ignore[arg-type]
        max_steps=config.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        log_every_n_steps=config.log_every,
        callbacks=[*callbacks, NewestCheckpoints(folder, config.checkpoint_every, config.keep_checkpoints)],
        plugins=[WholeCheckpointIO(), *slurm],
        logger=build_loggers(config, resumed.stem if resumed else "step_00000000"),
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
