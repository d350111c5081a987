"""Adapters: what they change, what they leave alone, and the strictness of their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import generator, make_model, predict

from diception.model.adapters import load_adapter, save_adapter
from diception.model.diception import Diception
from diception.model.lora import (
    adapter_share,
    adapter_weights,
    add_lora,
    base_hash,
    merge_adapter,
    remove_adapters,
)
from diception.model.transformer import DiceptionTransformer
from diception.tasks import get_task

TASK = {"type": "foreground", "name": "crack", "token": "[[image2crack]]"}


def adapted(targets: str = "both", rank: int = 3, alpha: float = 5.0) -> Diception:
    """A model whose adapter is not zero."""
    model = make_model()
    add_lora(model, rank, alpha, targets, generator=generator(7))
    for index, weight in enumerate(adapter_weights(model).values()):
        torch.nn.init.normal_(weight, std=0.1, generator=generator(index))
    return model


@pytest.mark.parametrize("targets", ["image", "both"])
@torch.no_grad()
def test_a_new_adapter_changes_nothing(targets: str) -> None:
    model = make_model()
    before, digest = predict(model), base_hash(model)
    add_lora(model, 4, targets=targets, generator=generator())
    assert torch.equal(predict(model), before) and base_hash(model) == digest


@pytest.mark.parametrize("targets", ["image", "both"])
def test_only_the_adapter_trains_and_all_of_it_gets_a_gradient(targets: str) -> None:
    model = adapted(targets)
    predict(model).square().mean().backward()
    trained = model.trainable_parameters()
    assert all(".lora_" in name for name in trained)
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    streams = {name.split(".attn.")[1].split(".")[0] for name in trained}
    context = {"add_q_proj", "add_k_proj", "add_v_proj"} if targets == "both" else set()
    assert streams == {"to_q", "to_k", "to_v"} | context


@pytest.mark.parametrize("targets", ["image", "both"])
def test_share_counts_parameters_and_max_share_gives_the_largest_rank(targets: str) -> None:
    model = make_model()
    total = sum(p.numel() for p in model.transformer.parameters())
    share = add_lora(model, targets=targets, max_share=0.05)
    adapter = sum(p.numel() for p in model.trainable_parameters().values())
    assert share == adapter_share(model) == adapter / total <= 0.05
    rank = next(iter(adapter_weights(model).values())).shape[0]
    larger = make_model()
    assert add_lora(larger, rank + 1, targets=targets) > 0.05


@pytest.mark.parametrize(
    ("targets", "rank", "expected"), [("image", 128, 0.0140), ("image", 64, 0.0070), ("both", 32, 0.0070)]
)
def test_shares_of_stable_diffusion_3_medium(targets: str, rank: int, expected: float) -> None:
    model = make_model()
    with torch.device("meta"):
        model.transformer = DiceptionTransformer(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        )
        assert sum(p.numel() for p in model.transformer.parameters()) == 2_028_328_000
        share = add_lora(model, rank, targets=targets)
    assert abs(share - expected) < 1e-4


@pytest.mark.parametrize("targets", ["image", "both"])
@torch.no_grad()
def test_merging_adds_scale_times_b_a(targets: str) -> None:
    model, base = adapted(targets), make_model()
    expected, weights = predict(model), {n: w.clone() for n, w in adapter_weights(model).items()}
    merge_adapter(model)
    torch.testing.assert_close(predict(model), expected, atol=1e-5, rtol=1e-4)
    original = base.transformer.state_dict()
    assert model.transformer.state_dict().keys() == original.keys()
    for name, merged in model.transformer.state_dict().items():
        stem = name.removesuffix(".weight")
        change = 0.0
        if f"{stem}.lora_A.weight" in weights:
            change = 5.0 / 3 * weights[f"{stem}.lora_B.weight"] @ weights[f"{stem}.lora_A.weight"]
        torch.testing.assert_close(merged, original[name] + change)
    assert adapter_share(model) == 0


@torch.no_grad()
def test_removing_gives_the_base_back_and_another_can_follow() -> None:
    model = adapted()
    remove_adapters(model)
    assert torch.equal(predict(model), predict(make_model()))
    add_lora(model, 2)
    with pytest.raises(ValueError, match="already has an adapter"):
        add_lora(model, 2)


@pytest.mark.parametrize("targets", ["image", "both"])
@torch.no_grad()
def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path, targets: str) -> None:
    model = adapted(targets)
    file = save_adapter(model, tmp_path / "new", [TASK], training={"steps": 3})
    fresh = make_model()
    info = load_adapter(fresh, tmp_path / "new")
    assert torch.equal(predict(fresh, TASK["token"]), predict(model, TASK["token"]))
    assert (info.rank, info.alpha, info.targets, info.tasks) == (3, 5.0, targets, [TASK])
    assert (info.training, info.prompts, info.share) == ({"steps": 3}, [TASK["token"]], adapter_share(model))
    assert TASK["token"] in fresh.bank.prompts
    assert file == tmp_path / "new" / "adapter.safetensors" and [p.name for p in file.parent.iterdir()] == [file.name]


@torch.no_grad()
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_a_file_that_does_not_fit_is_refused_and_leaves_the_model_alone(tmp_path: Path, fault: str) -> None:
    file = save_adapter(adapted(), tmp_path / "a.safetensors", [TASK])
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(n for n in tensors if ".lora_A." in n)
    if fault == "missing":
        del tensors[name]
    elif fault == "unexpected":
        tensors["transformer_blocks.9.attn.to_q.lora_A.weight"] = tensors[name].clone()
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, file, metadata)
    model = make_model()
    with pytest.raises(ValueError, match=fault):
        load_adapter(model, file)
    assert torch.equal(predict(model), predict(make_model()))


def test_wrong_base_wrong_file_and_wrong_arguments_are_refused(tmp_path: Path) -> None:
    file = save_adapter(adapted(), tmp_path / "a.safetensors", [TASK])
    with pytest.raises(ValueError, match="made for the base"):
        load_adapter(make_model(seed=1), file)
    with pytest.raises(ValueError, match="no adapter at"):
        load_adapter(make_model(), tmp_path / "b.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="not an adapter"):
        load_adapter(make_model(), tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="image, both, all"):
        add_lora(make_model(), 2, targets="text")
    with pytest.raises(ValueError, match="rank is 0"):
        add_lora(make_model(), max_share=1e-6)
    with pytest.raises(ValueError, match="no adapter to save"):
        save_adapter(make_model(), tmp_path / "d", [TASK])


def test_a_model_in_bfloat16_is_the_same_base(tmp_path: Path) -> None:
    file = save_adapter(adapted(), tmp_path / "a.safetensors", [TASK])
    model = make_model().to(torch.bfloat16)
    assert load_adapter(model, file).rank == 3


def test_an_adapter_of_several_tasks_brings_them_all(tmp_path: Path) -> None:
    tasks = [get_task(name).as_dict() for name in ("depth", "normal")]
    model, fresh = adapted(), make_model()
    model.bank.add(["[[image2depth]] near"])
    file = save_adapter(model, tmp_path / "a.safetensors", tasks)
    info = load_adapter(fresh, file)
    assert info.tasks == tasks and info.prompts == ["[[image2depth]]", "[[image2normal]]", "[[image2depth]] near"]
    tensors = load_file(file)
    with safe_open(str(file), framework="pt") as opened:
        metadata = json.loads(opened.metadata()["diception_adapter"])
    metadata["task"] = metadata.pop("tasks")[0]
    save_file(tensors, file, {"diception_adapter": json.dumps(metadata)})
    assert load_adapter(make_model(), file).tasks == tasks[:1], "a file of before"
