"""Adapters: LoRA on the attention's queries, keys and values, and the file that holds one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from diception.model.diception import Diception
from diception.model.hashing import weights_hash
from diception.model.transformer import DiceptionTransformer
from diception.model.weights import write_tensors

TARGETS = ("image", "both")
NAME = "default"
FORMAT = "diception-adapter-1"
FILE = "adapter.safetensors"
KEY = "diception_adapter"
"""The one entry of the file's metadata, JSON: several entries would be written in random order."""


@dataclass
class AdapterInfo:
    """What an adapter file says about itself."""

    rank: int
    alpha: float
    targets: str
    """`image`, or `both`: image and context stream."""
    tasks: list[dict[str, Any]]
    """The tasks that it was trained on, as `Task.as_dict` gives them."""
    training: dict[str, Any]
    """Summary of the training."""
    prompts: list[str]
    """Prompts whose embeddings are in the file."""
    base_hash: str
    """Hash of the transformer that it was trained on."""
    share: float
    """Its parameters as a share of the transformer's."""


def add_lora(
    model: Diception,
    rank: int | None = None,
    alpha: float | None = None,
    targets: str = "both",
    max_share: float = 0.01,
    generator: torch.Generator | None = None,
) -> float:
    """Adds a LoRA adapter that changes nothing yet, and freezes everything else in the model.

    Args:
        model: without an adapter.
        rank: of every pair of matrices; None means the largest whose parameters stay within `max_share`.
        alpha: the change is scaled by alpha / rank; the rank by default.
        targets: `image`, or `both`: image and context stream.
        max_share: of the transformer's parameters; only used where `rank` is None.
        generator: draws the first matrix of every pair, on the CPU.

    Returns:
        The adapter's parameters as a share of the transformer's.
    """
    transformer = model.transformer
    if _layers(transformer):
        raise ValueError("the model already has an adapter; merge or remove it first")
    names = _target_names(transformer, targets)
    rank, _ = lora_size(transformer, rank, targets, max_share)
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=names)  # type: ignore[arg-type]
    transformer.add_adapter(config, adapter_name=NAME)
    layers = _layers(transformer)
    assert set(layers) == set(names)
    generator = generator or torch.Generator().manual_seed(0)
    for layer in layers.values():
        down, up = _pair(layer)
        drawn = torch.empty(down.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        down.data.copy_(drawn)
        up.data.zero_()
    return adapter_share(model)


def lora_size(
    transformer: DiceptionTransformer, rank: int | None = None, targets: str = "both", max_share: float = 0.01
) -> tuple[int, int]:
    """Rank and number of parameters of the adapter that `add_lora` would add; an outline on the meta device will do.

    Raises:
        ValueError: the rank is below 1, or not even rank 1 is within `max_share`.
    """
    modules = [transformer.get_submodule(name) for name in _target_names(transformer, targets)]
    per_rank = sum(m.in_features + m.out_features for m in modules if isinstance(m, nn.Linear))
    total = sum(parameter.numel() for parameter in transformer.parameters())
    if rank is None:
        rank = int(max_share * total / per_rank)
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be at least 1 (rank 1 is {per_rank / total:.4%} of the transformer)")
    return rank, rank * per_rank


@torch.no_grad()
def merge_adapter(model: Diception) -> None:
    """Adds the adapter's change to the weights, scale * B A, and removes the adapter.

    Raises:
        ValueError: the weights are quantised.
    """
    for layer in _layers(model.transformer).values():
        weight: Any = layer.get_base_layer().weight
        if not weight.is_floating_point():
            raise ValueError("the model's blocks are quantised; load it without that to merge an adapter into it")
        down, up = _pair(layer)
        weight.copy_(weight.float() + layer.scaling[NAME] * (up.float() @ down.float()))
    remove_adapter(model)


def remove_adapter(model: Diception) -> None:
    """Takes the adapter off; the transformer is its base again, still frozen."""
    transformer: Any = model.transformer
    layers = _layers(transformer)
    if not layers:
        raise ValueError("the model has no adapter")
    for name, layer in layers.items():
        transformer.set_submodule(name, layer.get_base_layer())
    del transformer.peft_config
    transformer._hf_peft_config_loaded = False


def adapter_weights(model: Diception) -> dict[str, nn.Parameter]:
    """The adapter's tensors, `<module>.lora_A.weight` (rank, in) and `<module>.lora_B.weight` (out, rank)."""
    weights = {}
    for name, layer in _layers(model.transformer).items():
        weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"] = _pair(layer)
    return weights


def adapter_share(model: Diception) -> float:
    """The adapter's parameters over the transformer's own; 0 without an adapter."""
    adapter = sum(weight.numel() for weight in adapter_weights(model).values())
    return adapter / (sum(parameter.numel() for parameter in model.transformer.parameters()) - adapter)


def save_adapter(
    model: Diception,
    path: str | Path,
    tasks: Sequence[dict[str, Any]],
    prompts: Sequence[str] | None = None,
    training: dict[str, Any] | None = None,
) -> Path:
    """Writes the adapter with everything that is needed to use it on the same base.

    Args:
        model: with an adapter.
        path: a `.safetensors` file, or a folder for `adapter.safetensors`.
        tasks: as `Task.as_dict` gives them.
        prompts: whose embeddings go into the file; by default the tasks' tokens and all known prompts that begin so.
        training: summary of the training.

    Returns:
        The file.
    """
    weights = adapter_weights(model)
    if not weights:
        raise ValueError("the model has no adapter to save")
    if prompts is None:
        tokens = tuple(task["token"] for task in tasks)
        prompts = [*tokens, *[p for p in model.bank.prompts if p.startswith(tokens) and p not in tokens]]
    config = model.transformer.peft_config[NAME]
    metadata = {
        "format": FORMAT,
        "rank": config.r,
        "alpha": float(config.lora_alpha),
        "targets": "both" if any(".add_" in name for name in weights) else "image",
        "tasks": list(tasks),
        "training": training or {},
        "prompts": list(prompts),
        "base_hash": base_hash(model),
    }
    context, pooled = model.bank[list(prompts)]
    tensors = {name: weight.detach() for name, weight in weights.items()}
    tensors |= {"prompts.context": context, "prompts.pooled": pooled}
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    write_tensors(tensors, temporary, {KEY: json.dumps(metadata)})
    return temporary.replace(file)


def load_adapter(model: Diception, path: str | Path) -> AdapterInfo:
    """Puts a saved adapter on the model it was trained on, and its prompts into the model's bank.

    Raises:
        ValueError: no adapter file, made for another base, or any key missing, unexpected or of another shape; the
            model is then as it was.
    """
    tensors, metadata = _read(_file(path))
    found = base_hash(model)
    if metadata["base_hash"] != found:
        raise ValueError(f"{path} was made for the base {metadata['base_hash']}, this model's transformer is {found}")
    prompts, rank, alpha, targets = (metadata[name] for name in ("prompts", "rank", "alpha", "targets"))
    share = add_lora(model, rank, alpha, targets)
    own = adapter_weights(model)
    context, pooled = tensors.pop("prompts.context", None), tensors.pop("prompts.pooled", None)
    wrong = [f"missing {k}" for k in sorted(own.keys() - tensors)]
    wrong += [f"unexpected {k}" for k in sorted(tensors.keys() - own)]
    wrong += [f"shape of {k}" for k in sorted(own.keys() & tensors.keys()) if own[k].shape != tensors[k].shape]
    if context is None or pooled is None:
        wrong.append("missing prompts")
    if wrong or context is None or pooled is None:
        remove_adapter(model)
        raise ValueError(f"{path} does not fit the model ({len(wrong)} keys): {', '.join(wrong[:8])}")
    for name, weight in own.items():
        weight.data.copy_(tensors[name])
    model.bank.put(prompts, context, pooled)
    return AdapterInfo(rank, alpha, targets, metadata["tasks"], metadata["training"], prompts, found, share)


def base_hash(model: Diception) -> str:
    """Hash of the transformer's own weights, with or without an adapter on it."""
    own = {k: v for k, v in model.transformer.state_dict().items() if ".lora_" not in k}
    return weights_hash({name.replace(".base_layer.", "."): tensor for name, tensor in own.items()})


def _target_names(transformer: DiceptionTransformer, targets: str) -> list[str]:
    """Linear maps to queries, keys and values, without those that cannot change the velocity."""
    if targets not in TARGETS:
        raise ValueError(f"targets is {targets!r}; allowed: {', '.join(TARGETS)}")
    leaves = ["to_q", "to_k", "to_v"] + (["add_q_proj", "add_k_proj", "add_v_proj"] if targets == "both" else [])
    idle = {name.rpartition(".")[0] for name in transformer.idle_parameters()}
    return [n for n, _ in transformer.named_modules() if n.rpartition(".")[2] in leaves and n not in idle]


def _layers(transformer: DiceptionTransformer) -> dict[str, LoraLayer]:
    return {name: module for name, module in transformer.named_modules() if isinstance(module, LoraLayer)}


def _pair(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """A (rank, in) and B (out, rank)."""
    pair: Any = layer
    return pair.lora_A[NAME].weight, pair.lora_B[NAME].weight


def _file(path: str | Path) -> Path:
    return Path(path) if Path(path).suffix == ".safetensors" else Path(path) / FILE


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not file.is_file():
        raise ValueError(f"no adapter at {file}")
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = json.loads((opened.metadata() or {}).get(KEY, "{}"))
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not readable: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{file} is not an adapter of this project")
    if "task" in metadata:  # files of before an adapter could hold several
        metadata["tasks"] = [metadata.pop("task")]
    return tensors, metadata
