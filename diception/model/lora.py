"""LoRA on the transformer's linear maps: adding, weighing, merging and removing adapters (arXiv 2106.09685)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from diception.model.diception import Diception
from diception.model.hashing import weights_hash
from diception.model.transformer import DiceptionTransformer

IMAGE = ("attn.to_q", "attn.to_k", "attn.to_v")
CONTEXT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
TARGETS = {
    "image": IMAGE,
    "both": (*IMAGE, *CONTEXT),
    "all": (*IMAGE, *CONTEXT, "attn.to_out.0", "attn.to_add_out", "ff.net.0.proj", "ff.net.2"),
}
"""Maps of a block that adapt: queries, keys and values of the image stream, of both, or nearly all."""
NAME = "default"
KEY = "adapter_"
"""Before an adapter's name in PEFT's dictionaries, which are modules: `train` and `keys` are their own methods."""


def add_lora(
    model: Diception,
    rank: int | None = None,
    alpha: float | None = None,
    targets: str = "both",
    max_share: float = 0.01,
    generator: torch.Generator | None = None,
    name: str = NAME,
) -> float:
    """Adds a LoRA adapter that changes nothing yet, makes it the only active one, and freezes everything else.

    Args:
        model: without an adapter of this name.
        rank: of every pair of matrices; None means the largest whose parameters stay within `max_share`.
        alpha: the change is scaled by alpha / rank; the rank by default.
        targets: a key of `TARGETS`.
        max_share: of the transformer's parameters; only used where `rank` is None.
        generator: draws the first matrix of every pair, on the CPU.
        name: of the adapter.

    Returns:
        The adapter's parameters as a share of the transformer's.
    """
    transformer = model.transformer
    if name in adapter_names(model):
        raise ValueError(f"the model already has an adapter {name!r}; merge or remove it first")
    if not name or "." in name:
        raise ValueError(f"{name!r} is no name of an adapter: it must not be empty or have a dot")
    names = _target_names(transformer, targets)
    rank, _ = lora_size(transformer, rank, targets, max_share)
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=names)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a second adapter is meant
        transformer.add_adapter(config, adapter_name=KEY + name)
    generator = generator or torch.Generator().manual_seed(0)
    for layer in _layers(transformer, name).values():
        down, up = _pair(layer, KEY + name)
        drawn = torch.empty(down.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        down.data.copy_(drawn)
        up.data.zero_()
    use_adapters(model, {name: 1.0})
    for parameter in adapter_weights(model, name).values():
        parameter.requires_grad_(True)
    return adapter_share(model, name)


def lora_size(
    transformer: DiceptionTransformer, rank: int | None = None, targets: str = "both", max_share: float = 0.01
) -> tuple[int, int]:
    """Rank and number of parameters of the adapter that `add_lora` would add; an outline on the meta device will do.

    Raises:
        ValueError: the rank is below 1, or not even rank 1 is within `max_share`.
    """
    modules = [_base_layer(transformer.get_submodule(name)) for name in _target_names(transformer, targets)]
    per_rank = sum(m.in_features + m.out_features for m in modules if isinstance(m, nn.Linear))
    total = _own_parameters(transformer)
    if rank is None:
        rank = int(max_share * total / per_rank)
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be at least 1 (rank 1 is {per_rank / total:.4%} of the transformer)")
    return rank, rank * per_rank


def use_adapters(model: Diception, weights: Mapping[str, float]) -> None:
    """Makes these adapters count, each its change times its weight, and no others; with none the model is its base.

    With none, and so with the adapters switched off, the model computes what it did before it had any, bit for bit.

    Raises:
        ValueError: the model has no adapter of a name, or a weight is not finite.
    """
    known = adapter_names(model)
    for name, weight in weights.items():
        if name not in known:
            raise ValueError(f"the model has no adapter {name!r}; it has {', '.join(known) or 'none'}")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of adapter {name!r} is {weight}; it must be a finite number")
    for layer in _layers(model.transformer).values():
        counting = {KEY + name: weight for name, weight in weights.items() if KEY + name in layer.lora_A}
        requires = {parameter: parameter.requires_grad for parameter in layer.parameters()}
        layer.enable_adapters(bool(counting))
        if counting:
            layer.set_adapter(list(counting))
        for key, weight in counting.items():
            layer.set_scale(key, weight)
        for parameter, value in requires.items():
            parameter.requires_grad_(value)


def active_adapters(model: Diception) -> dict[str, float]:
    """The adapters that count, with their weights: what `use_adapters` was given, or the newest one alone."""
    found = {}
    for layer in _layers(model.transformer).values():
        if not layer.disable_adapters:
            counting = [key for key in layer.active_adapters if key in layer.lora_A]
            found |= {_name(key): layer.scaling[key] * layer.r[key] / layer.lora_alpha[key] for key in counting}
    return found


@torch.no_grad()
def merge_adapter(model: Diception) -> None:
    """Adds the change of the active adapters to the weights, scale * B A each, and removes all adapters.

    Raises:
        ValueError: the weights are quantised, or there is no adapter.
    """
    for layer in _layers(model.transformer).values():
        weight: Any = layer.get_base_layer().weight
        if not weight.is_floating_point():
            raise ValueError("the model's blocks are quantised; load it without that to merge an adapter into it")
        if layer.disable_adapters:
            continue
        change = torch.zeros_like(weight, dtype=torch.float32)
        for key in layer.active_adapters:
            down, up = _pair(layer, key)
            change += layer.scaling[key] * (up.float() @ down.float())
        weight.copy_(weight.float() + change)
    remove_adapters(model)


def remove_adapters(model: Diception) -> None:
    """Takes all adapters off; the transformer is its base again, still frozen."""
    transformer: Any = model.transformer
    layers = _layers(transformer)
    if not layers:
        raise ValueError("the model has no adapter")
    for name, layer in layers.items():
        transformer.set_submodule(name, layer.get_base_layer())
    del transformer.peft_config
    transformer._hf_peft_config_loaded = False


def remove_adapter(model: Diception, name: str) -> None:
    """Takes one adapter off; those that stay count as before, and without any the transformer is its base again."""
    names = adapter_names(model)
    if name not in names:
        raise ValueError(f"the model has no adapter {name!r}; it has {', '.join(names) or 'none'}")
    if names == [name]:
        remove_adapters(model)
        return
    staying = {other: weight for other, weight in active_adapters(model).items() if other != name}
    requires = {parameter: parameter.requires_grad for parameter in model.transformer.parameters()}
    for path, layer in _layers(model.transformer, name).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that another takes its place, which it does not: see below
            layer.delete_adapter(KEY + name)
        if not len(layer.lora_A):
            model.transformer.set_submodule(path, layer.get_base_layer())
    del model.transformer.peft_config[KEY + name]
    use_adapters(model, staying)
    for parameter in model.transformer.parameters():
        parameter.requires_grad_(requires[parameter])


def adapter_names(model: Diception) -> list[str]:
    """Names of the model's adapters, in the order in which they were added."""
    return [_name(key) for key in getattr(model.transformer, "peft_config", {})]


def adapter_config(model: Diception, name: str = NAME) -> LoraConfig:
    """An adapter's rank and alpha, as `r` and `lora_alpha`."""
    return model.transformer.peft_config[KEY + name]


def adapter_weights(model: Diception, name: str = NAME) -> dict[str, nn.Parameter]:
    """An adapter's tensors, `<module>.lora_A.weight` (rank, in) and `<module>.lora_B.weight` (out, rank)."""
    weights = {}
    for module, layer in _layers(model.transformer, name).items():
        weights[f"{module}.lora_A.weight"], weights[f"{module}.lora_B.weight"] = _pair(layer, KEY + name)
    return weights


def adapter_share(model: Diception, name: str = NAME) -> float:
    """An adapter's parameters over the transformer's own; 0 without it."""
    own = _own_parameters(model.transformer)
    return sum(weight.numel() for weight in adapter_weights(model, name).values()) / own


def base_hash(model: Diception) -> str:
    """Hash of the transformer's own weights, with or without adapters on it; of before, where they are quantised."""
    if model.quantized_base is not None:
        return model.quantized_base
    own = {k: v for k, v in model.transformer.state_dict().items() if ".lora_" not in k}
    return weights_hash({name.replace(".base_layer.", "."): tensor for name, tensor in own.items()})


def _own_parameters(transformer: DiceptionTransformer) -> int:
    """How many numbers the transformer has without adapters; two that are stored in a byte are two."""
    own: dict[str, Any] = {path: p for path, p in transformer.named_parameters() if ".lora_" not in path}
    shapes = (getattr(p, "quant_state", None) or p for p in own.values())
    return sum(math.prod(stored.shape) for stored in shapes)


def _target_names(transformer: DiceptionTransformer, targets: str) -> list[str]:
    """Linear maps that adapt, without those that cannot change the velocity."""
    if targets not in TARGETS:
        raise ValueError(f"targets is {targets!r}; allowed: {', '.join(TARGETS)}")
    idle = {name.rpartition(".")[0].removesuffix(".base_layer") for name in transformer.idle_parameters()}
    ends = tuple(f".{end}" for end in TARGETS[targets])
    names = [n for n, m in transformer.named_modules() if n.endswith(ends) and isinstance(m, nn.Linear | LoraLayer)]
    return [name for name in names if name not in idle]


def _layers(transformer: DiceptionTransformer, name: str | None = None) -> dict[str, Any]:
    """Maps with adapters, or with the adapter of a name."""
    layers = {path: module for path, module in transformer.named_modules() if isinstance(module, LoraLayer)}
    return {path: layer for path, layer in layers.items() if name is None or KEY + name in layer.lora_A}


def _base_layer(module: Any) -> nn.Module:
    return module.get_base_layer() if isinstance(module, LoraLayer) else module


def _pair(layer: Any, key: str) -> tuple[nn.Parameter, nn.Parameter]:
    """A (rank, in) and B (out, rank)."""
    return layer.lora_A[key].weight, layer.lora_B[key].weight


def _name(key: str) -> str:
    return key.removeprefix(KEY)
