"""Training: what is trained and saved, what is watched and validated, and learning at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.weights import write_stable_diffusion
from running import assert_close_to_the_step, assert_equal, weights
from torch.utils.data import DataLoader

from diception.annotations import DepthMap
from diception.cli import main
from diception.config import (
    AdapterConfig,
    FlowConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
    TrainConfig,
    save_config,
)
from diception.datasets.sample import Sample, collate
from diception.datasets.writer import ShardWriter, write_samples
from diception.inference import Pipeline, Prediction
from diception.model.adapters import load_adapter
from diception.model.checkpoint import from_stable_diffusion, load_model, save_model
from diception.model.weights import TINY
from diception.training.checkpoints import newest_checkpoint
from diception.training.datamodule import open_stream
from diception.training.drawing import DrawnCollate
from diception.training.latents import encode_batch
from diception.training.module import FIXED_SIGMAS, DiceptionModule
from diception.training.plan import plan
from diception.training.run import build_model, build_tasks, train


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
    assert sorted(task["name"] for task in info.tasks) == sorted(train_config.data.sources[0].tasks)
    own = {k.replace(".base_layer.", "."): v for k, v in adapted.transformer.state_dict().items() if ".lora_" not in k}
    assert_equal(base.transformer.state_dict(), own)


def test_an_adapter_on_stable_diffusion_answers_with_its_base(train_config: TrainConfig, tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd3")
    model = replace(train_config.model, base=str(tmp_path / "sd3"))
    adapter = train(replace(train_config, steps=2, model=model, adapter=AdapterConfig(rank=2)))
    base = Path(train_config.run) / "base"
    points, fresh = load_model(base).points, from_stable_diffusion(tmp_path / "sd3", torch.Generator().manual_seed(0))
    assert not torch.equal(points.mlp[0].weight, fresh.points.mlp[0].weight)
    pipeline = Pipeline.from_pretrained(base, adapter=adapter)
    image = np.zeros((64, 64, 3), np.uint8)
    assert isinstance(pipeline(image, task="point_segmentation", points=[(0.5, 0.5)], steps=1), Prediction)
    assert_equal(load_model(base).transformer.state_dict(), fresh.transformer.state_dict())


@pytest.mark.parametrize("adapter", [None, AdapterConfig()])
def test_what_was_trained_at_a_size_answers_at_it(train_config: TrainConfig, adapter: AdapterConfig | None) -> None:
    path = train(replace(train_config, steps=1, adapter=adapter))
    pipeline = Pipeline.from_pretrained(path) if adapter is None else Pipeline.from_pretrained("tiny", adapter=path)
    answer = pipeline(np.zeros((96, 96, 3), np.uint8), task="depth", steps=1)
    assert isinstance(answer, Prediction) and answer.rgb.shape == (3, 64, 64)


def test_a_model_from_nothing_answers_as_it_was_validated_and_others_as_their_base(train_config: TrainConfig) -> None:
    config = replace(train_config, sampling=SamplingConfig(steps=3, guidance_scale=1.5))
    nothing = replace(config.model, base="small", autoencoder=str(TINY / "vae"), width=64, layers=1, heads=1)
    fresh, tiny = build_model(replace(config, model=nothing)), build_model(config)
    assert (fresh.settings.steps, fresh.settings.guidance_scale) == (3, 1.5)
    assert (tiny.settings.steps, tiny.settings.guidance_scale) == (1, 1.0)


def test_loss_of_the_true_velocity_is_zero(train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
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
    noise = module.drawing(batch).noise
    assert noise is not None and batch.target is not None
    latents = model.encode(torch.cat([batch.image, batch.target])).chunk(2)[1]
    monkeypatch.setattr(model, "velocity", lambda *_: noise - latents)
    assert module.losses(batch)[0].abs().max() < 1e-8


def test_what_the_loader_draws_is_what_the_step_would(train_config: TrainConfig) -> None:
    """For pixels and for latents, in any process and any batch: noise belongs to the sample's seed."""
    model = build_model(train_config)
    stream = open_stream(train_config.data, build_tasks(train_config, model), 0)
    module = DiceptionModule(model, train_config)
    drawn_there = DrawnCollate(stream.collate, module.drawing)
    [loaded] = DataLoader(stream, batch_sampler=[[3, 1]], collate_fn=drawn_there, num_workers=1)
    batch = stream.collate([stream[3], stream[1]])
    assert batch.noise is None and loaded.noise is not None
    assert torch.equal(module.drawing(encode_batch(model, batch)).noise, loaded.noise)
    with torch.no_grad():
        (losses, sigmas), (again, same) = module.losses(loaded), module.losses(batch)
    assert torch.equal(losses, again) and torch.equal(sigmas, same)
    alone = drawn_there([stream[1]])
    assert torch.equal(alone.noise[0], loaded.noise[1]) and alone.sigmas[0] == loaded.sigmas[1]  # type: ignore[index]


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
    assert f"transformer of {count / 1e6:.1f} M parameters, 100.0% trained; strategy auto" in told
    assert "memory about" in told and f"average {count * 4 / 1e9:.1f}" in told
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


def test_a_dry_run_takes_its_options_in_any_order(train_config: TrainConfig, capsys: pytest.CaptureFixture) -> None:
    path = Path(f"{train_config.run}.yaml")
    save_config(train_config, path)
    for words in (["steps=9", "--dry-run"], ["--dry-run", "steps=9"]):
        assert main(["train", str(path), *words]) == 0
        assert ", 9 steps" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(path), "--dry-run", "--nonsense=9"])


def test_a_model_of_zeros_at_sigma_one_is_measured_and_asked_so(train_config: TrainConfig) -> None:
    flow = FlowConfig(share_at_one=1.0, start="zero")
    with pytest.raises(ValueError, match=r"flow\.start=zero needs sampling\.start=zero"):
        replace(train_config, flow=flow)
    sampling = SamplingConfig(steps=1, guidance_scale=1.0, start="zero")
    pipeline = Pipeline.from_pretrained(train(replace(train_config, steps=1, flow=flow, sampling=sampling)))
    image = np.zeros((64, 64, 3), np.uint8)
    one, other = (pipeline(image, task="depth", seed=seed) for seed in (0, 1))
    assert isinstance(one, Prediction) and isinstance(other, Prediction) and np.array_equal(one.rgb, other.rgb)


def test_a_validation_that_nothing_serves_is_refused_before_the_first_step(train_config: TrainConfig) -> None:
    bare = replace(train_config.data.sources[0], tasks={"foreground": 1.0})
    blank = Sample("bare", np.zeros((64, 64, 3), np.uint8))
    folder = Path(train_config.run).with_name("bare")
    write_samples([blank], ShardWriter(folder))
    config = replace(
        train_config, data=replace(train_config.data, validation=[replace(bare, shards=f"{folder}/*.tar")])
    )
    with pytest.raises(ValueError, match=r"nothing in .*bare.* serves the task 'foreground'"):
        train(config)
    assert not Path(config.run).exists()


def test_a_task_is_sampled_as_it_was_last_trained(train_config: TrainConfig, tmp_path: Path) -> None:
    base = load_model("tiny")
    base.settings.sampling = {name: {"start": "zero", "steps": 1} for name in ("depth", "other")}
    save_model(base, tmp_path / "base")
    data = replace(train_config.data, size=128)
    config = replace(train_config, steps=1, data=data, model=ModelConfig(base=str(tmp_path / "base")))
    folder = train(config)
    assert folder is not None and load_model(folder).settings.sampling == {"other": {"start": "zero", "steps": 1}}


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_serves_nothing_ends_in_one_line(
    train_config: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    nothing = DepthMap(np.zeros((64, 64), np.float32))
    image = np.zeros((64, 64, 3), np.uint8)
    write_samples((Sample(str(i), image, {"depth": nothing}) for i in range(3)), ShardWriter(tmp_path / "empty", 3))
    source = replace(train_config.data.sources[0], shards=str(tmp_path / "empty" / "*.tar"), tasks={"depth": 1.0})
    config = replace(train_config, data=replace(train_config.data, sources=[source], workers=workers))
    save_config(config, tmp_path / "run.yaml")
    assert main(["train", str(tmp_path / "run.yaml")]) == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("diception train: scenes/depth: 3 samples in a row cannot serve 'depth'")
