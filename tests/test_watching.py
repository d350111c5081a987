"""What a run tells of itself: means of losses, operations, memory; prompts made once; the best weights kept."""

from __future__ import annotations

import csv
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from running import assert_equal, checkpoint, train_until, weights
from small import make_model
from torch.nn import functional as F

from diception.config import AdapterConfig, ModelConfig, OptimConfig, TaskConfig, TrainConfig
from diception.export import export_directory
from diception.model.bank import PromptBank
from diception.model.checkpoint import load_model
from diception.model.diception import Diception
from diception.model.text import WordHashEncoder
from diception.training import prompts
from diception.training.build import build_model, build_tasks
from diception.training.checkpoints import best_loss
from diception.training.datamodule import open_stream
from diception.training.flops import training_flops
from diception.training.footprint import footprint
from diception.training.meter import LossMeter
from diception.training.run import fit, train


def rows(config: TrainConfig) -> list[dict[str, str]]:
    with (Path(config.run) / "logs" / "step_00000000" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_meter_gives_means_by_task_and_band_of_all_that_came() -> None:
    meter = LossMeter(["depth", "pose"])
    meter.add(torch.tensor([1.0, 3.0]), torch.tensor([0.2, 1.0]), ["depth", "pose"], torch.tensor([0.0, 0.5]))
    meter.add(torch.tensor([5.0]), torch.tensor([0.999]), ["depth"], torch.tensor([0.25]))
    found = meter.take(lambda sums: sums)
    assert found == {
        "loss": 3.0,
        "masked_share": 0.25,
        "loss_by_sigma/0": 1.0,
        "loss_by_sigma/3": 5.0,
        "loss_by_sigma/4": 3.0,
        "loss/depth": 3.0,
        "loss/pose": 3.0,
    }
    assert meter.take(lambda sums: sums) == {}


def test_logged_losses_are_means_of_the_steps_between_the_lines(train_config: TrainConfig, tmp_path: Path) -> None:
    fine, coarse = replace(train_config, run=str(tmp_path / "fine")), replace(train_config, log_every=3)
    train(fine)
    train(coarse)
    steps = [float(row["loss"]) for row in rows(fine)]
    means = [float(row["loss"]) for row in rows(coarse)]
    assert len(steps) == 6 and means == pytest.approx([sum(steps[:3]) / 3, sum(steps[3:]) / 3], rel=1e-6)
    assert {"samples_per_s", "tflops", "data_wait", "grad_norm", "lr", "masked_share"} <= rows(coarse)[0].keys()


def test_operations_are_those_of_the_formula() -> None:
    model = make_model()
    size, width, layers, text = 64, 64, 2, 8
    tokens, context = 2 * (size // 16) ** 2, text + 5
    cells = tokens // 2
    # Multiplications and additions of a block (SD3 fig. 2b): queries, keys, values and output, attention, two MLPs.
    maps = 2 * (tokens + context) * 12 * width**2
    attention = 2 * 2 * (tokens + context) ** 2 * width
    shorter = 2 * context * 9 * width**2  # the last block has no output and no MLP for the context
    modulation = 2 * layers * 12 * width**2
    inner = layers * (maps + attention) - shorter + modulation
    own = inner + 2 * 2 * cells * 64 * width + 2 * cells * width * 64  # both pictures in, one out
    small = training_flops(model, size) - _encoding_flops(model, size)
    assert small == pytest.approx(3 * own, rel=0.05)
    frozen = make_model()
    frozen.transformer.requires_grad_(False)
    assert training_flops(frozen, size) - _encoding_flops(model, size) == pytest.approx(2 * own, rel=0.08)


def _encoding_flops(model: Diception, size: int) -> float:
    """Of two pictures, counted on the module itself with values."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.autoencoder.vae.encode(torch.zeros(2, 3, size, size))
    return counter.get_total_flops()


@pytest.mark.parametrize("every", [0, 1, 2])
def test_estimated_activations_are_what_the_model_keeps(train_config: TrainConfig, every: int) -> None:
    config = replace(train_config, model=ModelConfig(base="tiny", gradient_checkpointing=every), batch_size=8)
    model = build_model(config).train()
    condition = model.condition(["[[image2depth]]"] * 8, torch.zeros(8, 5, 2), torch.zeros(8, 5, dtype=torch.bool))
    latents = torch.zeros(8, 16, 8, 8)
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.velocity(latents, torch.ones(8), latents, condition)
    found = sum(storage.nbytes() for storage in kept.values())
    transformer = model.transformer.config
    estimate = footprint(config, transformer, condition.context.shape[1]).activations
    if every == 0:
        assert estimate == pytest.approx(found, rel=0.05)
    else:  # the hooks do not see what checkpointing keeps: inputs of blocks, and one block at the peak
        plain = footprint(replace(config, model=ModelConfig(base="tiny")), transformer, condition.context.shape[1])
        assert found < estimate < plain.activations


def test_memory_of_weights_follows_strategy_optimizer_and_precision(train_config: TrainConfig) -> None:
    transformer = load_model("tiny").transformer.config
    base = replace(train_config, batch_size=8)
    whole = footprint(base, transformer, 16)
    shared = footprint(replace(base, strategy="fsdp", devices=4, nodes=2), transformer, 16)
    assert (whole.moments, whole.average) == (8 * whole.parameters, 4 * whole.parameters)
    assert shared.moments == whole.moments / 8 and shared.weights == whole.weights / 8
    eight = footprint(replace(base, optim=OptimConfig(name="adamw8bit", ema=0)), transformer, 16)
    assert (eight.moments, eight.average) == (2 * whole.parameters, 0)
    frozen = replace(base, adapter=AdapterConfig(), precision="bf16-mixed", model=ModelConfig(base_precision="bf16"))
    assert footprint(frozen, transformer, 16).weights == pytest.approx(2 * whole.parameters, rel=0.03)


def test_the_best_weights_are_those_of_the_lowest_validation_loss(train_config: TrainConfig, tmp_path: Path) -> None:
    data = replace(train_config.data, validation=[replace(train_config.data.sources[0], tasks={"depth": 1.0})])
    bad = OptimConfig(lr=0.1, warmup=1, ema=0.0)  # every step makes it worse
    config = replace(train_config, data=data, steps=3, validate_every=1, optim=bad)
    last = train(config)
    assert last is not None
    validated = [float(row["val_loss"]) for row in rows(config) if row.get("val_loss")]
    assert len(validated) == 4 and min(validated) == validated[0] == pytest.approx(best_loss(Path(config.run)))
    best = export_directory(config.run, tmp_path / "best", best=True)
    assert_equal(load_model(best).transformer.state_dict(), load_model("tiny").transformer.state_dict())
    assert load_model(best).settings.training["steps"] == 0
    end = export_directory(config.run, tmp_path / "end")
    assert load_model(end).settings.training["steps"] == 3
    assert_equal(load_model(end).transformer.state_dict(), load_model(last).transformer.state_dict())
    with pytest.raises(ValueError, match="the run has validated nothing yet"):
        export_directory("tiny", tmp_path / "none", best=True)


class Slow(WordHashEncoder):
    """An encoder that is expensive to load."""

    loaded = 0

    def __init__(self) -> None:
        super().__init__(64, 16)
        Slow.loaded += 1


def test_prompts_are_made_by_rank_0_and_the_others_wait(
    train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_stream(train_config.data, build_tasks(train_config, load_model("tiny")), 0)
    first, second = PromptBank(load_encoder=Slow), PromptBank(load_encoder=Slow)
    monkeypatch.setattr(prompts, "POLL_S", 0.01)
    Slow.loaded = 0
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    waiting = threading.Thread(target=prompts.fill_bank, args=(second, stream.pairs, tmp_path))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive() and Slow.loaded == 0
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 0)
    prompts.fill_bank(first, stream.pairs, tmp_path)
    waiting.join(10)
    assert Slow.loaded == 1 and first.encoder is None and second.encoder is None
    assert first.prompts == second.prompts and "" in first.prompts and len(first.prompts) > 80
    prompts.fill_bank(PromptBank(load_encoder=Slow), stream.pairs, tmp_path)
    assert Slow.loaded == 1, "a resumed run reads the file"
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    monkeypatch.setattr(prompts, "WAIT_S", 0.05)
    with pytest.raises(TimeoutError, match="rank 0 has not made them"):
        prompts.fill_bank(PromptBank(load_encoder=Slow), stream.pairs, tmp_path / "nowhere")


def test_a_run_loads_its_encoder_once_and_keeps_it_no_longer_than_needed(train_config: TrainConfig) -> None:
    Slow.loaded = 0
    vocabulary = ["box", "cone", "cylinder", "ellipsoid", "person", "ring", "sphere"]
    train_config.tasks = [TaskConfig(name="semantic_segmentation", vocabulary=vocabulary)]
    for steps in (2, 3):  # and a resumed run not at all
        model, config = load_model("tiny"), replace(train_config, steps=steps)
        model.bank = PromptBank(load_encoder=Slow)
        fit(model, open_stream(config.data, build_tasks(config, model), 0), [], config)
        assert Slow.loaded == 1 and model.bank.encoder is None
    assert Path(train_config.run, "prompts.safetensors").is_file()


def test_eight_bit_moments_resume_exactly(train_config: TrainConfig, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = replace(train_config, optim=replace(train_config.optim, name="adamw8bit"))
    whole = train(replace(config, run=str(tmp_path / "whole")))
    train_until(config, 2)
    end = train(config)
    assert whole is not None and end is not None
    assert_equal(weights(whole), weights(end))
    states = str(checkpoint(Path(config.run))["optimizer_states"][0]["state"])
    assert "torch.uint8" in states or "dtype=torch.uint8" in states


@pytest.mark.parametrize("every", [1, 2])
def test_checkpointed_blocks_give_the_same_gradient(train_config: TrainConfig, every: int) -> None:
    gradients = []
    for model_config in (ModelConfig(base="tiny"), ModelConfig(base="tiny", gradient_checkpointing=every)):
        model = build_model(replace(train_config, model=model_config)).train()
        condition = model.condition(["[[image2depth]]"], torch.zeros(1, 5, 2), torch.zeros(1, 5, dtype=torch.bool))
        latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        F.mse_loss(model.velocity(latents, torch.ones(1), latents, condition), latents).backward()
        gradients.append({n: p.grad for n, p in model.trainable_parameters().items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_a_frozen_base_in_bf16_trains_its_adapter_in_float32(train_config: TrainConfig) -> None:
    model_config = ModelConfig(base="tiny", base_precision="bf16")
    config = replace(train_config, adapter=AdapterConfig(max_share=0.05), model=model_config, precision="bf16-mixed")
    model = build_model(config)
    types = {p.requires_grad: p.dtype for p in model.transformer.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    small = replace(config, steps=1, batch_size=2)
    assert train(small) == Path(config.run) / "adapter.safetensors"
    with pytest.raises(ValueError, match="base_precision bf16 is for a frozen base"):
        build_model(replace(config, adapter=None))
    with pytest.raises(ValueError, match="base_precision is 'fp8'; allowed: fp32, bf16"):
        build_model(replace(config, model=ModelConfig(base_precision="fp8")))
