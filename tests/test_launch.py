"""The launchers: what they start, and how a job under Slurm stops, is requeued and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from running import ENVIRONMENT, ROOT, assert_close_to_the_step, weights

from diception.config import TrainConfig, save_config
from diception.training.checkpoints import newest_checkpoint
from diception.training.run import train

SRUN = """#!/usr/bin/env bash
# Two tasks on one node, as srun starts them.
while [[ "$1" == --* ]]; do shift; done
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
    echo $! >> "$STUBS/tasks"
done
wait -n && wait -n
"""
SQUEUE = '#!/usr/bin/env bash\ncat "$STUBS/state"\n'
SCANCEL = '#!/usr/bin/env bash\n[ "$*" = "--signal=USR1 7.0" ] && kill -USR1 $(cat "$STUBS/tasks")\n'
SCONTROL = '#!/usr/bin/env bash\necho "$@" >> "$STUBS/requeued"\n'


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment like that of a batch job of two tasks, with commands that do what Slurm's would."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "squeue": SQUEUE}.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "diception", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "2"}
    tasks = {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1", "SLURM_SUBMIT_DIR": str(ROOT)}
    own = {"STUBS": str(stubs), "PATH": f"{stubs}:{os.environ['PATH']}", "PYTHON": sys.executable}
    return ENVIRONMENT | job | tasks | own


def start_and_tell(
    command: list[str], config: TrainConfig, environment: dict[str, str], number: int
) -> tuple[int, str]:
    """Starts a launcher, signals it once the run is under way; exit status and what it said."""
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics, deadline = Path(config.run) / "logs" / "step_00000000" / "metrics.csv", time.monotonic() + 200
    while not metrics.exists() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(number)
    out, _ = job.communicate(timeout=200)
    return job.returncode, out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "state"), [(signal.SIGUSR1, "RUNNING"), (signal.SIGTERM, "RUNNING"), (signal.SIGTERM, "COMPLETING")]
)
def test_a_job_that_is_told_to_stop_saves_goes_back_into_the_queue_and_ends_as_one_run(
    train_config: TrainConfig, tmp_path: Path, slurm: dict[str, str], number: int, state: str
) -> None:
    """Near its limit or pre-empted; one that was cancelled saves, too, and stays out of the queue."""
    config = replace(train_config, steps=40, checkpoint_every=1000, optim=replace(train_config.optim, ema=0))
    save_config(config, tmp_path / "job.yaml")
    Path(slurm["STUBS"], "state").write_text(f"{state}\n")
    command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), str(tmp_path / "job.yaml")]
    status, out = start_and_tell(command, config, slurm, number)
    assert status == 0 and "told to stop" in out, out[-3000:]
    requeued = Path(slurm["STUBS"], "requeued")
    assert newest_checkpoint(Path(config.run)) is not None and not Path(config.run, "model").exists()
    assert not list(ROOT.glob(".stopped-*"))
    if state != "RUNNING":
        assert not requeued.exists()
        return
    assert requeued.read_text() == "requeue 7\n"
    again = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-3000:]
    assert requeued.read_text() == "requeue 7\n", "a finished job is not requeued"
    whole = train(replace(config, run=str(tmp_path / "whole")))
    assert whole is not None
    assert_close_to_the_step(weights(whole), weights(Path(config.run) / "model"))


@pytest.mark.parametrize("launcher", ["local.sh", "slurm.sbatch"])
def test_launchers_without_a_config_say_how_they_are_called(launcher: str) -> None:
    ended = subprocess.run(["bash", str(ROOT / "launch" / launcher)], capture_output=True, text=True)
    assert ended.returncode == 2 and "usage:" in ended.stderr and "CONFIG" in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="gloo is not built in")
def test_the_local_launcher_trains_on_two_devices(train_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(train_config, steps=2)
    save_config(config, tmp_path / "local.yaml")
    command = ["bash", str(ROOT / "launch" / "local.sh"), "2", str(tmp_path / "local.yaml"), "log_every=2"]
    environment = ENVIRONMENT | {"PYTHON": sys.executable}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (Path(config.run) / "model").is_dir() and "devices: 2" in (Path(config.run) / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="gloo is not built in")
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_local_launcher_passes_signals_on(train_config: TrainConfig, tmp_path: Path, number: int) -> None:
    config = replace(train_config, steps=4000, checkpoint_every=10_000)
    save_config(config, tmp_path / "local.yaml")
    command = ["bash", str(ROOT / "launch" / "local.sh"), "2", str(tmp_path / "local.yaml")]
    status, out = start_and_tell(command, config, ENVIRONMENT | {"PYTHON": sys.executable}, number)
    assert status == 0 and "the same command goes on" in out, out[-3000:]
    assert newest_checkpoint(Path(config.run)) is not None and not Path(config.run, "model").exists()
