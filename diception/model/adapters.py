"""The file that holds an adapter with everything that is needed to use it on the same base, and PEFT's layout of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from diception.model.diception import Diception
from diception.model.hashing import weights_hash
from diception.model.lora import (
    NAME,
    active_adapters,
    adapter_config,
    adapter_share,
    adapter_weights,
    add_lora,
    base_hash,
    remove_adapter,
    use_adapters,
)
from diception.model.weights import write_json, write_tensors

FORMAT = "diception-adapter-1"
FILE = "adapter.safetensors"
KEY = "diception_adapter"
"""The one entry of the file's metadata, JSON: several entries would be written in random order."""
PROMPTS = ("prompts.context", "prompts.pooled")
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILES = (DIFFUSERS_FILE, "adapter_model.safetensors", "adapter_config.json")
ABOUT = "diception_adapter.json"
"""Beside these, what the adapter says of itself."""


@dataclass
class AdapterInfo:
    """What an adapter file says about itself."""

    rank: int
    alpha: float
    targets: str
    """Which maps adapt, a key of `lora.TARGETS`."""
    tasks: list[dict[str, Any]]
    """The tasks that it was trained on, as `Task.as_dict` gives them."""
    training: dict[str, Any]
    """Summary of the training."""
    prompts: list[str]
    """Prompts whose embeddings are in the file."""
    base_hash: str
    """Hash of the transformer that it was trained on."""
    points_hash: str = ""
    """Hash of the points that were trained with it, as on Stable Diffusion 3 itself; empty: any model's."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Fields of a `SamplingConfig` that serve it best; what is not named is the model's."""
    share: float = 0.0
    """Its parameters as a share of the transformer's."""
    name: str = NAME
    """Under which it was loaded."""


def save_adapter(
    model: Diception,
    path: str | Path,
    tasks: Sequence[dict[str, Any]],
    prompts: Sequence[str] | None = None,
    training: dict[str, Any] | None = None,
    sampling: dict[str, Any] | None = None,
    name: str = NAME,
) -> Path:
    """Writes the adapter of a name.

    Args:
        model: with the adapter.
        path: a `.safetensors` file, or a folder for `adapter.safetensors`.
        tasks: as `Task.as_dict` gives them.
        prompts: whose embeddings go into the file; by default the tasks' tokens and all known prompts that begin so.
        training: summary of the training.
        sampling: fields of a `SamplingConfig` that predictions use where nothing else is said.
        name: of the adapter.

    Returns:
        The file.
    """
    weights = adapter_weights(model, name)
    if not weights:
        raise ValueError("the model has no adapter to save")
    if prompts is None:
        tokens = tuple(task["token"] for task in tasks)
        prompts = [*tokens, *[p for p in model.bank.prompts if p.startswith(tokens) and p not in tokens]]
    config = adapter_config(model, name)
    metadata = {
        "format": FORMAT,
        "rank": config.r,
        "alpha": float(config.lora_alpha),
        "targets": _targets(weights),
        "tasks": list(tasks),
        "training": training or {},
        "prompts": list(prompts),
        "base_hash": base_hash(model),
        "points_hash": weights_hash(model.points.state_dict()) if _trains_points(model) else "",
        "sampling": sampling or {},
        "share": adapter_share(model, name),
    }
    tensors = {name: weight.detach() for name, weight in weights.items()}
    tensors |= dict(zip(PROMPTS, model.bank[list(prompts)], strict=True))
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    write_tensors(tensors, temporary, {KEY: json.dumps(metadata)})
    return temporary.replace(file)


def load_adapter(model: Diception, path: str | Path, name: str = NAME) -> AdapterInfo:
    """Puts a saved adapter on the model it was trained on, beside others, and its prompts into the model's bank.

    It is then the only one that counts; `lora.use_adapters` says otherwise.

    Raises:
        ValueError: no adapter file, made for another base, a name that is taken, or any key missing, unexpected or of
            another shape; the model is then as it was.
    """
    info, found = read_info(path), base_hash(model)
    if info.base_hash != found:
        raise ValueError(f"{path} was made for the base {info.base_hash}, this model's transformer is {found}")
    if info.points_hash not in ("", weights_hash(model.points.state_dict())):
        raise ValueError(f"{path} goes with the `base` folder beside it, whose points were trained with it")
    tensors, before = load_file(_file(path)), active_adapters(model)
    share = add_lora(model, info.rank, info.alpha, info.targets, name=name)
    own = adapter_weights(model, name)
    wrong = [f"missing {k}" for k in sorted({*own, *PROMPTS} - tensors.keys())]
    wrong += [f"unexpected {k}" for k in sorted(tensors.keys() - {*own, *PROMPTS})]
    wrong += [f"shape of {k}" for k in sorted(own.keys() & tensors.keys()) if own[k].shape != tensors[k].shape]
    if wrong:
        remove_adapter(model, name)
        use_adapters(model, before)
        raise ValueError(f"{path} does not fit the model ({len(wrong)} keys): {', '.join(wrong[:8])}")
    for key, weight in own.items():
        weight.data.copy_(tensors[key])
    model.bank.put(info.prompts, *[tensors[key] for key in PROMPTS])
    info.share, info.name = share, name
    return info


def read_adapter(path: str | Path) -> tuple[dict[str, Tensor], AdapterInfo]:
    """An adapter's tensors and what it says of itself, without a model; ValueError as `read_info`."""
    info = read_info(path)
    return load_file(_file(path)), info


def read_info(path: str | Path) -> AdapterInfo:
    """What an adapter says of itself; its tensors are not read.

    Raises:
        ValueError: no file, not readable, or no adapter of this project.
    """
    file = _file(path)
    if not file.is_file():
        raise ValueError(f"no adapter at {file}")
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = json.loads((opened.metadata() or {}).get(KEY, "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not readable: {error}") from error
    if not isinstance(metadata, dict) or metadata.pop("format", None) != FORMAT:
        raise ValueError(f"{file} is not an adapter of this project")
    if "task" in metadata:  # files of before an adapter could hold several
        metadata["tasks"] = [metadata.pop("task")]
    known = {f.name for f in fields(AdapterInfo)}
    needed = known - {"sampling", "share", "name", "points_hash"}
    if wrong := sorted((needed - metadata.keys()) | (metadata.keys() - known)):
        raise ValueError(f"{file}: its metadata lacks or should not have {', '.join(wrong)}")
    return AdapterInfo(**metadata)


def write_peft(path: str | Path, out: str | Path) -> list[Path]:
    """Writes an adapter in the layouts of diffusers (`load_lora_weights`) and of PEFT (`PeftModel.from_pretrained`).

    alpha / rank goes into the second matrices, so that a loader that knows no alpha has it right too. The files hold
    the matrices alone: prompts and joined image tokens are this project's.

    Args:
        path: an adapter's file.
        out: a folder.

    Returns:
        The files.
    """
    tensors, info = read_adapter(path)
    matrices = {k: v * (info.alpha / info.rank if ".lora_B." in k else 1) for k, v in tensors.items() if ".lora_" in k}
    modules = sorted({name.partition(".lora_")[0] for name in matrices})
    config = {
        "peft_type": "LORA",
        "r": info.rank,
        "lora_alpha": info.rank,
        "target_modules": modules,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    out = Path(out)
    if out.exists() and any(file.name not in (*PEFT_FILES, ABOUT) for file in out.iterdir()):
        raise ValueError(f"{out} holds other files; choose an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    diffusers, peft = out / DIFFUSERS_FILE, out / "adapter_model.safetensors"
    write_tensors({f"transformer.{name}": tensor for name, tensor in matrices.items()}, diffusers, {"format": "pt"})
    write_tensors({f"base_model.model.{name}": tensor for name, tensor in matrices.items()}, peft, {"format": "pt"})
    write_json(out / "adapter_config.json", config)
    write_json(out / ABOUT, {k: v for k, v in asdict(info).items() if k not in ("share", "name")})
    return [diffusers, peft, out / "adapter_config.json", out / ABOUT]


def _trains_points(model: Diception) -> bool:
    return any(parameter.requires_grad for parameter in model.points.parameters())


def _targets(weights: dict[str, Any]) -> str:
    if any(".ff." in name for name in weights):
        return "all"
    return "both" if any(".add_" in name for name in weights) else "image"


def _file(path: str | Path) -> Path:
    return Path(path) if Path(path).suffix == ".safetensors" else Path(path) / FILE
