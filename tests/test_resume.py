"""Runs that were killed, stopped or found a full disk, and go on as if nothing had been."""

from __future__ import annotations

import os
import random
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
from running import ENVIRONMENT, assert_equal, checkpoint, command, in_processes, losses, train_until, weights

from diception.config import TrainConfig, save_config
from diception.training.checkpoints import WholeCheckpointIO, newest_checkpoint
from diception.training.datamodule import open_stream
from diception.training.run import build_model, build_tasks, train

MOMENTS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end", "on_before_zero_grad")
KILLED = """
import os, signal, sys
import lightning as L
import torch
from diception.config import TrainConfig, load_config
from diception.training.datamodule import open_stream
from diception.training.run import build_model, build_tasks, train

torch.set_num_threads(1)
path, step, moment = sys.argv[1:]


def kill(self, trainer, *_):
    if trainer.global_step >= int(step):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    train(load_config(path, [], TrainConfig), [type("Kill", (L.Callback,), {moment: kill})()])
"""


@pytest.mark.parametrize(("delay", "workers"), [(0.0, 0), (0.7, 1)])
def test_killed_and_started_again_ends_with_the_same_weights(
    train_config: TrainConfig, tmp_path: Path, delay: float, workers: int
) -> None:
    """Killed at whatever step it is in `delay` seconds after its first checkpoint, with validations in between."""
    data = replace(train_config.data, workers=workers, validation_count=1)
    data.validation = [replace(data.sources[0], tasks={"depth": 1.0})]
    config = replace(train_config, data=data, steps=60, checkpoint_every=4, validate_every=7)
    undisturbed = train(replace(config, run=str(tmp_path / "undisturbed")))
    process = subprocess.Popen(command(config), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while newest_checkpoint(Path(config.run)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert newest_checkpoint(Path(config.run)) is not None
    assert not (Path(config.run) / "model").exists(), "killed too late to mean anything"
    assert_equal(weights(undisturbed), weights(in_processes(config) / "model"))


def test_a_run_that_was_stopped_keeps_no_more_checkpoints(train_config: TrainConfig) -> None:
    config = replace(train_config, steps=8, checkpoint_every=2, keep_checkpoints=2)
    train_until(config, 3)
    kept = []

    class Count(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            kept.append(len(list((Path(config.run) / "checkpoints").glob("step_*.ckpt"))))

    train(config, [Count()])
    assert len(kept) == 5 and max(kept) == 2
    names = [path.name for path in (Path(config.run) / "checkpoints").glob("step_*.ckpt")]
    assert sorted(names) == ["step_00000006.ckpt", "step_00000008.ckpt"]


def test_a_finished_run_is_left_alone_and_goes_on_with_more_steps(train_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(train_config, steps=5, checkpoint_every=3, keep_checkpoints=1)
    finished = weights(train(config).parent)
    began: list[int] = []

    class Began(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            began.append(trainer.global_step)

    assert_equal(finished, weights(train(config, [Began()]).parent))
    assert not began, "what is finished is not trained again"
    train(replace(config, steps=7), [Began()])
    assert began == [5, 6]
    names = [path.name for path in (Path(config.run) / "checkpoints").glob("step_*.ckpt")]
    assert names == ["step_00000007.ckpt"]


@pytest.mark.slow
def test_ten_kills_leave_no_trace(train_config: TrainConfig, tmp_path: Path) -> None:
    """At random steps and moments; two within one checkpoint, one where depth has just drawn each of its samples."""
    data = replace(train_config.data, workers=1, validation_count=1)
    data.validation = [replace(data.sources[0], tasks={"depth": 1.0})]
    times = {"steps": 60, "checkpoint_every": 4, "validate_every": 9, "log_every": 3, "keep_checkpoints": 20}
    config = replace(train_config, data=data, **times)
    whole = replace(config, run=str(tmp_path / "whole"))
    train(whole)
    script = tmp_path / "kill.py"
    script.write_text(KILLED)
    epoch = epoch_end(config)
    drawn = random.Random(6)
    steps = sorted([*drawn.sample(range(4, 59), 7), 30, 31, epoch])
    for step, moment in zip(steps, drawn.choices(MOMENTS, k=len(steps)), strict=True):
        killer = [sys.executable, str(script), *command(config)[2:], str(step), MOMENTS[0] if step == epoch else moment]
        ended = subprocess.run(killer, env=ENVIRONMENT, capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-3000:]
    found = in_processes(config)
    assert_equal(weights(Path(whole.run) / "model"), weights(found / "model"))
    assert losses(found) == losses(Path(whole.run)) and sorted(losses(found)) == list(range(3, 61, 3))
    assert_same_state(checkpoint(Path(whole.run)), checkpoint(found))
    lines = [(Path(run) / "validation.jsonl").read_text().splitlines() for run in (found, whole.run)]
    assert set(lines[0]) == set(lines[1])


def epoch_end(config: TrainConfig) -> int:
    """A step after 8 at whose start the first task has drawn each of its samples as often as any other."""
    stream = open_stream(config.data, build_tasks(config, build_model(config)), config.seed)
    seen = [stream.locate(position)[0] is stream.pairs[0] for position in range(60 * config.batch_size)]
    counts = [sum(seen[: step * config.batch_size]) for step in range(60)]
    return next(s for s in range(8, 60) if counts[s] % len(stream.pairs[0].samples) == 0 and counts[s] > counts[s - 1])


def assert_same_state(one: Any, other: Any, where: str = "") -> None:
    """Equal bit for bit, but for what says when and where a run was written."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            # Lightning's own number of a line of its logs, which a checkpoint holds one too low.
            if not str(key).startswith("NewestCheckpoints") and key != "_batches_that_stepped":
                assert_same_state(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert_same_state(dict(enumerate(one)), dict(enumerate(other)), where)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = WholeCheckpointIO(), tmp_path / "checkpoints" / "step_00000001.ckpt"
    with monkeypatch.context() as patch:  # straight to its place, whatever the temporary folder can take
        patch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        io.save_checkpoint({"a": torch.ones(3)}, path)
    assert newest_checkpoint(tmp_path) == path
    assert torch.equal(io.load_checkpoint(path)["a"], torch.ones(3))

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
    newest.write_bytes(newest.read_bytes()[:-1000])
    with pytest.raises(InterruptedError):
        train(replace(train_config, keep_checkpoints=1, steps=8), [Raise(5)])
    assert newest_checkpoint(folder) == before, "the damaged one is not counted as the one that is kept"


class Raise(L.Callback):
    """Ends a run in an error at a step, before it is written."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


def test_nothing_is_written_in_the_middle_of_a_step(train_config: TrainConfig) -> None:
    """Neither after a resume: what it goes on from is on disk."""
    config = replace(train_config, accumulate=2, steps=4)
    train(config)
    written: list[str] = []

    class Spy(L.Callback):
        def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
            written.append(f"{trainer.global_step}.{trainer.fit_loop.epoch_loop.batch_progress.current.ready}")

    train(replace(config, steps=6), [Spy()])
    assert written == ["6.12"]


def test_ctrl_c_says_that_the_same_command_goes_on(train_config: TrainConfig, tmp_path: Path) -> None:
    save_config(replace(train_config, steps=100_000), tmp_path / "long.yaml")
    code = "import sys; from diception.cli import main; sys.exit(main(['train', sys.argv[1]]))"
    called = [sys.executable, "-c", code, str(tmp_path / "long.yaml")]

    def heard() -> None:  # what runs in the background of a shell ignores Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(called, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 120
    while newest_checkpoint(Path(train_config.run)) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted; the same command continues" in told


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(train_config: TrainConfig, tmp_path: Path) -> None:
    whole = train(replace(train_config, run=str(tmp_path / "whole")))
    train_until(train_config, 2)
    before = newest_checkpoint(Path(train_config.run))
    assert before is not None and before.stem == "step_00000002"
    (before.parent / "step_00000003.ckpt.partial").write_bytes(b"of a killed run")
    save_config(train_config, tmp_path / "full.yaml")
    code = "import sys; from diception.cli import main; sys.exit(main(['train', sys.argv[1]]))"
    called = [sys.executable, "-c", code, str(tmp_path / "full.yaml")]

    def quota() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    ended = subprocess.run(called, env=ENVIRONMENT, preexec_fn=quota, capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and last.startswith("diception train: ") and "step_00000004.ckpt cannot be" in last
    assert newest_checkpoint(Path(train_config.run)) == before
    assert [path.name for path in before.parent.iterdir()] == [before.name]
    subprocess.run(called, env=ENVIRONMENT, check=True, capture_output=True)
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


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_a_signal_before_the_first_step_stops_the_run_and_it_begins_anew(
    train_config: TrainConfig, tmp_path: Path, hook: str
) -> None:
    whole = train(replace(train_config, run=str(tmp_path / "whole")))
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    killer = L.Callback()
    setattr(killer, hook, lambda *_, **__: os.kill(os.getpid(), signal.SIGUSR1))
    assert train(train_config, [killer]) is None
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] == before
    assert newest_checkpoint(Path(train_config.run)) is None
    model = train(train_config)
    assert whole is not None and model is not None
    assert_equal(weights(whole), weights(model))


def test_under_slurm_the_job_script_alone_requeues(train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1", "SLURM_NNODES": "1"}
    for name, value in (ranks | {"SLURM_JOB_NAME": "diception", "SLURM_NTASKS_PER_NODE": "1"}).items():
        monkeypatch.setenv(name, value)
    seen = []

    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
            seen.append(trainer._accelerator_connector.cluster_environment.auto_requeue)

    assert train(replace(train_config, steps=1), [Look()]) is not None
    assert seen == [False]


def test_two_resumes_in_a_row_equal_one_run(train_config: TrainConfig, tmp_path: Path) -> None:
    whole = train(replace(train_config, run=str(tmp_path / "whole"), checkpoint_every=1))
    stages = []
    for steps in (2, 4, 6):
        # The schedule must not know that the run will stop early, so the trainer is stopped by its step count alone.
        stages.append(train_until(replace(train_config, checkpoint_every=1), steps))
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
    process = subprocess.Popen(
        command(config), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    logs = Path(config.run) / "logs" / "step_00000000" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not logs.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped; the same command goes on" in out
    assert newest_checkpoint(Path(config.run)) is not None


def test_a_folder_of_another_run_is_refused_and_a_finished_one_stays(train_config: TrainConfig) -> None:
    config = replace(train_config, steps=2, checkpoint_every=1)
    first = weights(train(config))
    with pytest.raises(ValueError, match="holds a run with other seed"):
        train(replace(config, seed=1))
    assert_equal(first, weights(train(config)))
