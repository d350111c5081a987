"""Several processes: the same losses as one at the same global batch, and checkpoints that load in any strategy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from running import ENVIRONMENT, checkpoint, in_processes, losses
from torch.distributed.device_mesh import init_device_mesh

from diception.config import AdapterConfig, OptimConfig, TrainConfig, save_config
from diception.model.checkpoint import load_model
from diception.training.module import DiceptionModule
from diception.training.run import train
from diception.training.sharding import check_strategy, is_sharded

STEPS = 20
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="gloo is not built in")


def steady(config: TrainConfig, folder: Path) -> TrainConfig:
    """Twenty steps whose schedule does not depend on how many there are, with a validation in between."""
    data = replace(config.data, validation_count=3)
    data.validation = [replace(data.sources[0], tasks={"depth": 1.0, "point_segmentation": 1.0})]
    optim = replace(config.optim, lr=1e-4, schedule="constant")
    run = {"run": str(folder), "steps": STEPS, "checkpoint_every": 10, "validate_every": 10, "keep_checkpoints": 9}
    return replace(config, data=data, optim=optim, **run)


def continued(config: TrainConfig, folder: Path, name: str) -> TrainConfig:
    """The same run in a copy of a folder as it was after ten steps."""
    other = shutil.copytree(folder, folder.parent / name)
    (other / "checkpoints" / f"step_{STEPS:08d}.ckpt").unlink()
    for log in (other / "logs").iterdir():
        shutil.rmtree(log)
    return replace(config, run=str(other))


def validations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The numbers in nested dicts and lists, by their path."""
    if not isinstance(value, (dict, list)):
        return {name: value} if isinstance(value, (int, float)) else {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: leaf for key, inner in items for path, leaf in flat(inner, f"{name}/{key}").items()}


def assert_same(found: Path, wanted: Path, first: int = 1) -> None:
    """Losses within 1e-5, and averages and moments that are about the same tensors."""
    own, other = losses(found), losses(wanted)
    assert sorted(own) == list(range(first, STEPS + 1))
    assert max(abs(own[step] - other[step]) for step in own) < 1e-5
    one, two = checkpoint(found), checkpoint(wanted)
    averages = [c["callbacks"]["EMA"]["average"] for c in (one, two)]
    assert averages[0].keys() == averages[1].keys() and one["state_dict"].keys() == two["state_dict"].keys()
    for name, tensor in averages[1].items():
        torch.testing.assert_close(averages[0][name], tensor, rtol=1e-3, atol=1e-4)
    moments = [c["optimizer_states"][0]["state"] for c in (one, two)]
    assert {n: v["exp_avg"].shape for n, v in moments[0].items()} == {
        n: v["exp_avg"].shape for n, v in moments[1].items()
    }


def test_two_processes_take_the_steps_of_one_and_continue_each_other(train_config: TrainConfig, tmp_path: Path) -> None:
    config = steady(train_config, tmp_path / "alone")
    train(config)
    alone = tmp_path / "alone"
    folders = {}
    for strategy in ("ddp", "fsdp"):
        shared = replace(config, run=str(tmp_path / strategy), strategy=strategy, devices=2)
        folders[strategy] = in_processes(shared)
        assert_same(folders[strategy], alone)
        shares, whole = ([flat(line) for line in validations(f)] for f in (folders[strategy], alone))
        assert len(shares) == 3 and shares[0] == pytest.approx(whole[0], rel=1e-5)  # before the first step
    in_pieces = continued(replace(config, strategy="fsdp", devices=2), folders["ddp"], "ddp-fsdp")
    assert_same(in_processes(in_pieces), alone, first=11)
    single = continued(replace(config, accumulate=2), folders["fsdp"], "fsdp-alone")
    train(single)
    assert_same(Path(single.run), alone, first=11)
    weights = [load_model(folder / "model").transformer.state_dict() for folder in (folders["fsdp"], alone)]
    assert all(torch.allclose(weights[0][name], tensor, rtol=1e-3, atol=1e-4) for name, tensor in weights[1].items())


LAGGING = """
import os, sys
from diception.config import TrainConfig, load_config
from diception.training import run

if os.environ.get("LOCAL_RANK") == "1":
    run.newest_checkpoint = lambda folder: None

if __name__ == "__main__":
    run.train(load_config(sys.argv[1], [], TrainConfig))
"""


def test_ranks_that_see_other_checkpoints_stop_before_they_wait_for_each_other(
    train_config: TrainConfig, tmp_path: Path
) -> None:
    data = replace(train_config.data, validation_count=1)
    data.validation = [replace(data.sources[0], tasks={"depth": 1.0})]
    config = replace(train_config, data=data, steps=4, validate_every=2)
    train(config)
    shared, script = replace(config, steps=6, devices=2), tmp_path / "lagging.py"
    save_config(shared, tmp_path / "lagging.yaml")
    script.write_text(LAGGING)
    told = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "lagging.yaml")],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode and "the ranks go on from steps 0 to 4: not all see the same folder" in told.stderr


def test_what_does_not_go_together_is_refused(train_config: TrainConfig) -> None:
    for wrong, message in [
        ({"strategy": "zero"}, "strategy is 'zero'; allowed: auto, ddp, fsdp"),
        ({"strategy": "fsdp", "adapter": AdapterConfig()}, "fsdp does not train an adapter"),
        ({"strategy": "fsdp", "optim": OptimConfig(name="adamw8bit")}, "fsdp does not go with optim.name=adamw8bit"),
        ({"optim": OptimConfig(name="lion")}, "optim.name is 'lion'; allowed: adamw, adamw8bit"),
        ({"loggers": ["mlflow"]}, "loggers has 'mlflow'; allowed: csv, tensorboard, wandb"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(replace(train_config, **wrong))
        assert not Path(train_config.run).exists()


@pytest.mark.parametrize("launcher", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_would_each_train_alone_are_refused(
    train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.setenv(launcher, "8")
    with pytest.raises(ValueError, match=f"{launcher} is 8, but devices=1 and nodes=1"):
        train(train_config)
    check_strategy(replace(train_config, devices=4, nodes=2))


def test_blocks_can_be_compiled_and_in_pieces(train_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(train_config, strategy="fsdp", model=replace(train_config.model, compile=True))
    module = DiceptionModule(load_model("tiny"), config)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
        module._device_mesh = mesh  # as Lightning's strategy gives it
        module.configure_model()
        assert is_sharded(module.model)
        blocks = module.model.transformer.transformer_blocks
        assert all(block._compiled_call_impl is not None for block in blocks)
        module.teardown("fit")
        assert all(block._compiled_call_impl is None for block in blocks), "what is measured after is not compiled"
    finally:
        torch.distributed.destroy_process_group()
