"""Training: what is trained and saved, exact resume after SIGKILL, equality over accumulation, and learning at all."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from diception.config import AdapterConfig, FlowConfig, ModelConfig, OptimConfig, TrainConfig, save_config
from diception.datasets.sample import collate
from diception.model.checkpoint import load_model
from diception.model.lora import load_adapter
from diception.training.checkpoints import WholeCheckpointIO, newest_checkpoint
from diception.training.datamodule import open_stream
from diception.training.module import FIXED_SIGMAS, DiceptionModule
from diception.training.plan import plan
from diception.training.run import build_model, build_tasks, train

ROOT = Path(__file__).parent.parent


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{p.parent.name}.{k}": v for p in folder.rglob("*.safetensors") for k, v in load_file(p).items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def assert_close_to_the_step(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Two runs from `tiny` ended in one place, measured by how far they went.

    Adam turns the rounding of a gradient near zero into a step; other data or another mean would be far away.
    """
    start = {f"transformer.{name}": tensor for name, tensor in load_model("tiny").transformer.state_dict().items()}
    assert one.keys() == other.keys()
    distance = sum(float((one[name] - tensor).square().sum()) for name, tensor in start.items())
    apart = sum(float((one[name] - other[name]).square().sum()) for name in start)
    assert distance > 0
    assert apart < 1e-3 * distance


def test_a_run_changes_the_transformer_and_leaves_the_autoencoder(train_config: TrainConfig) -> None:
    folder = train(train_config)
    before, after = load_model("tiny"), load_model(folder)
    assert_equal(before.autoencoder.state_dict(), after.autoencoder.state_dict())
    changed = [
        n for n, p in before.transformer.named_parameters() if not torch.equal(p, after.transformer.state_dict()[n])
    ]
    assert len(changed) > 50
    assert {entry["name"] for entry in after.settings.tasks} >= set(train_config.data.sources[0].tasks)


def test_checkpoints_hold_no_frozen_weights(train_config: TrainConfig) -> None:
    train(train_config)
    path = newest_checkpoint(Path(train_config.run))
    assert path is not None
    names = set(torch.load(path, weights_only=True)["state_dict"])
    assert names
    assert not [name for name in names if "autoencoder" in name]


@pytest.mark.parametrize(("delay", "workers"), [(0.0, 0), (0.7, 1)])
def test_killed_and_started_again_ends_with_the_same_weights(
    train_config: TrainConfig, tmp_path: Path, delay: float, workers: int
) -> None:
    """Killed at whatever step it is in `delay` seconds after its first checkpoint, with validations in between."""
    data = replace(train_config.data, workers=workers, validation_count=1)
    data.validation = [replace(data.sources[0], tasks={"depth": 1.0})]
    config = replace(train_config, data=data, steps=60, checkpoint_every=4, validate_every=7)
    undisturbed = train(replace(config, run=str(tmp_path / "undisturbed")))
    save_config(config, tmp_path / "killed.yaml")
    command = [sys.executable, str(ROOT / "train" / "multitask.py"), str(tmp_path / "killed.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while newest_checkpoint(Path(config.run)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert newest_checkpoint(Path(config.run)) is not None
    assert not (Path(config.run) / "model").exists(), "killed too late to mean anything"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert_equal(weights(undisturbed), weights(Path(config.run) / "model"))


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = WholeCheckpointIO(), tmp_path / "checkpoints" / "step_00000001.ckpt"
    io.save_checkpoint({"a": torch.ones(3)}, path)
    assert newest_checkpoint(tmp_path) == path

    def broken(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("diception.training.checkpoints.os.replace", broken)
        with pytest.raises(OSError, match="disk full"):
            io.save_checkpoint({"a": torch.zeros(3)}, tmp_path / "checkpoints" / "step_00000002.ckpt")
    assert newest_checkpoint(tmp_path) == path
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(3))


def test_a_damaged_checkpoint_is_passed_over(train_config: TrainConfig) -> None:
    whole = train(train_config)
    folder = Path(train_config.run)
    newest, before = (folder / "checkpoints" / f"step_{step:08d}.ckpt" for step in (6, 4))
    assert whole is not None and newest_checkpoint(folder) == newest
    wanted = weights(whole)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert newest_checkpoint(folder) == before
    again = train(train_config)
    assert again is not None
    assert_equal(wanted, weights(again))


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(train_config: TrainConfig, tmp_path: Path) -> None:
    whole = train(replace(train_config, run=str(tmp_path / "whole")))
    _train_until(train_config, 2)
    before = newest_checkpoint(Path(train_config.run))
    assert before is not None and before.stem == "step_00000002"
    save_config(train_config, tmp_path / "full.yaml")
    code = "import sys; from diception.cli import main; sys.exit(main(['train', sys.argv[1]]))"
    command = [sys.executable, "-c", code, str(tmp_path / "full.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def quota() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    ended = subprocess.run(command, env=environment, preexec_fn=quota, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and last.startswith("diception train: ") and "step_00000004.ckpt cannot be" in last
    assert newest_checkpoint(Path(train_config.run)) == before
    assert [path.name for path in before.parent.iterdir()] == [before.name]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert whole is not None
    assert_equal(weights(whole), weights(Path(train_config.run) / "model"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_run_with_a_checkpoint_and_it_goes_on(
    train_config: TrainConfig, tmp_path: Path, number: signal.Signals
) -> None:
    whole = train(replace(train_config, run=str(tmp_path / "whole")))
    config = replace(train_config, checkpoint_every=1000)

    class Kill(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                os.kill(os.getpid(), number)

    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    assert train(config, [Kill()]) is None
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    path = newest_checkpoint(Path(config.run))
    assert path is not None and path.stem == "step_00000004" and not (Path(config.run) / "model").exists()
    model = train(config)
    assert whole is not None and model is not None
    assert_equal(weights(whole), weights(model))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="gloo is not built in")
def test_two_ranks_take_the_same_steps_as_one(train_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(train_config, steps=2, optim=replace(train_config.optim, ema=0))
    alone = weights(train(replace(config, run=str(tmp_path / "alone"))))
    shared = replace(config, run=str(tmp_path / "shared"), devices=2)
    save_config(shared, tmp_path / "shared.yaml")
    command = [sys.executable, str(ROOT / "train" / "multitask.py"), str(tmp_path / "shared.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert_close_to_the_step(alone, weights(tmp_path / "shared" / "model"))


def test_two_resumes_in_a_row_equal_one_run(train_config: TrainConfig, tmp_path: Path) -> None:
    whole = train(replace(train_config, run=str(tmp_path / "whole"), checkpoint_every=1))
    stages = []
    for steps in (2, 4, 6):
        # The schedule must not know that the run will stop early, so the trainer is stopped by its step count alone.
        stages.append(_train_until(replace(train_config, checkpoint_every=1), steps))
    assert_equal(weights(whole), weights(stages[-1]))


def test_a_run_stopped_by_its_time_limit_goes_on_where_it_was(train_config: TrainConfig, tmp_path: Path) -> None:
    whole = train(replace(train_config, run=str(tmp_path / "whole")))
    limited = replace(train_config, checkpoint_every=1000, max_minutes=1e-6)
    steps = []
    for _ in range(train_config.steps):
        train(limited)
        path = newest_checkpoint(Path(limited.run))
        steps.append(0 if path is None else int(path.stem.split("_")[1]))
    assert steps[:2] == [1, 2] and steps == sorted(steps)
    assert_equal(weights(whole), weights(Path(limited.run) / "model"))


def test_a_signal_to_the_whole_group_with_loaders_stops_it_too(train_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(train_config, steps=3000, checkpoint_every=1000, data=replace(train_config.data, workers=2))
    save_config(config, tmp_path / "group.yaml")
    command = [sys.executable, str(ROOT / "train" / "multitask.py"), str(tmp_path / "group.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    logs = Path(config.run) / "logs" / "step_00000000" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not logs.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped; the same command goes on" in out
    assert newest_checkpoint(Path(config.run)) is not None


def _train_until(config: TrainConfig, steps: int) -> Path:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step >= steps:
                trainer.should_stop = True

    return train(config, [Stop()])


def test_accumulation_does_not_change_the_gradient(train_config: TrainConfig, tmp_path: Path) -> None:
    base = replace(train_config, steps=1, optim=replace(train_config.optim, ema=0))
    whole = weights(train(replace(base, run=str(tmp_path / "whole"))))
    parts = weights(train(replace(base, run=str(tmp_path / "parts"), accumulate=2)))
    assert_close_to_the_step(whole, parts)


def test_the_adapter_run_trains_the_adapter_alone(train_config: TrainConfig) -> None:
    path = train(replace(train_config, adapter=AdapterConfig(max_share=0.01)))
    base, adapted = load_model("tiny"), load_model("tiny")
    info = load_adapter(adapted, path)
    assert 0 < info.share <= 0.01
    own = {k.replace(".base_layer.", "."): v for k, v in adapted.transformer.state_dict().items() if ".lora_" not in k}
    assert_equal(base.transformer.state_dict(), own)


def test_loss_of_the_true_velocity_is_zero(train_config: TrainConfig) -> None:
    model = build_model(train_config)
    tasks = build_tasks(train_config, model)
    stream = open_stream(train_config.data, tasks, 0)
    module = DiceptionModule(model, train_config)
    batch = collate([stream[position] for position in range(4)])
    losses, sigmas = module.losses(batch)
    again, _ = module.losses(batch)
    assert torch.equal(losses, again)
    assert losses.shape == sigmas.shape == (4,)
    assert (losses > 0).all()


def test_losses_at_fixed_sigmas_depend_on_nothing_but_the_weights(train_config: TrainConfig) -> None:
    model = build_model(train_config)
    module = DiceptionModule(model, train_config)
    stream = open_stream(train_config.data, build_tasks(train_config, model), 0)
    batch = collate([stream[i] for i in range(3)])
    torch.manual_seed(0)
    first = module.fixed_losses(batch)
    torch.manual_seed(1)
    alone = [module.fixed_losses(collate([stream[i]])) for i in range(3)]
    assert list(first) == list(FIXED_SIGMAS) and all(value > 0 for value in first.values())
    for sigma, value in first.items():
        assert value == pytest.approx(sum(one[sigma] for one in alone) / 3, rel=1e-4)


def test_validation_writes_losses_at_fixed_sigmas(train_config: TrainConfig) -> None:
    data = replace(train_config.data, validation=[replace(train_config.data.sources[0], tasks={"depth": 1.0})])
    train(replace(train_config, data=data, steps=2, validate_every=1))
    lines = [json.loads(line) for line in Path(train_config.run, "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(len(line["losses"]["depth"]) == len(FIXED_SIGMAS) for line in lines)
    logged = Path(train_config.run, "logs", "step_00000000", "metrics.csv").read_text()
    assert "val_loss/depth/sigma_0.55" in logged and "data_wait" in logged


def test_a_dry_run_tells_and_writes_nothing(train_config: TrainConfig) -> None:
    told = plan(replace(train_config, batch_size=8, accumulate=2, devices=2))
    assert "batch 8 = 2 samples x 2 devices x 2 parts, 64 x 64" in told and "from the start, 6 steps" in told
    assert "scenes/depth: 25.0%, 12 samples, each 1.0 times" in told and not Path(train_config.run).exists()
    count = sum(p.numel() for p in load_model("tiny").transformer.parameters())
    assert f"transformer of {count / 1e6:.1f} M parameters, all trained: {count * 20 / 1e9:.1f} GB" in told
    train(replace(train_config, steps=2))
    assert "goes on from step_00000002.ckpt" in plan(train_config)
    for wrong, message in [
        ({"batch_size": 7, "devices": 2}, "batch_size 7"),
        ({"model": ModelConfig(base="nowhere")}, "no model at 'nowhere'"),
        ({"flow": FlowConfig(density="flat")}, "density is 'flat'"),
        ({"optim": OptimConfig(schedule="step")}, "schedule is 'step'"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan(replace(train_config, run=f"{train_config.run}-2", **wrong))


def test_a_batch_that_does_not_divide_is_refused(train_config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="batch_size 4 is not a multiple"):
        train(replace(train_config, accumulate=3))


def test_a_folder_of_another_run_is_refused_and_a_finished_one_stays(train_config: TrainConfig) -> None:
    config = replace(train_config, steps=2, checkpoint_every=1)
    first = weights(train(config))
    with pytest.raises(ValueError, match="holds a run with other seed"):
        train(replace(config, seed=1))
    assert_equal(first, weights(train(config)))
