"""Files of weights: one folder per module as diffusers writes it, whole or not at all, read strictly."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"
TINY = Path(__file__).parent.parent / "assets" / "tiny"


def save_module(module: Any, folder: Path, dtype: torch.dtype | None = None, class_name: str | None = None) -> None:
    """Writes `config.json` and the weights of one diffusers-like module.

    Args:
        module: has a config and a state dict.
        folder: made if it is not there.
        dtype: of the stored weights; their own by default.
        class_name: written into the config instead of the module's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module.save_config(folder)
    if class_name is not None:
        write_json(folder / "config.json", {**read_json(folder / "config.json"), "_class_name": class_name})
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    cast = {n: t.to(dtype) if dtype is not None and t.is_floating_point() else t for n, t in state.items()}
    write_tensors(cast, folder / WEIGHTS, {"format": "pt"})


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """One safetensors file, whole or not at all, readable by everybody: the library makes it private to its owner."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial, metadata)
    partial.chmod(0o644)
    partial.replace(path)


def load_module(cls: type[ModelMixin], folder: Path) -> Any:
    """Builds a module from its config and fills it strictly from its safetensors, on the CPU in the stored type.

    Raises:
        ValueError: files are missing or broken, or keys are missing, unexpected or of another shape; lists them.
    """
    state, module = _read_weights(folder), outline(cls, folder)
    own = module.state_dict()
    wrong = [f"missing {name}" for name in sorted(own.keys() - state)]
    wrong += [f"unexpected {name}" for name in sorted(state.keys() - own)]
    wrong += [f"shape of {name}" for name in sorted(own.keys() & state.keys()) if own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(f"{folder}: {len(wrong)} weights do not fit {cls.__name__}: {', '.join(wrong[:8])}")
    module.load_state_dict(state, assign=True)
    assert not any(t.is_meta for t in [*module.parameters(), *module.buffers()])
    return module.eval()


def outline(cls: type[ModelMixin], folder: Path) -> Any:
    """The module that a folder's config describes, on the meta device: names and shapes, no weights, no memory."""
    with torch.device("meta"):
        return cls.from_config(read_json(folder / "config.json"))  # type: ignore[attr-defined]


@contextlib.contextmanager
def atomic_directory(directory: str | Path, marker: str) -> Iterator[Path]:
    """A folder to fill, renamed to `directory` at the end; after an error nothing has changed.

    Raises:
        ValueError: `directory` holds something that has no `marker` file, so it is not ours to replace.
    """
    target = Path(directory).absolute()
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / marker).exists())):
        raise ValueError(f"{target} exists and has no {marker}; give an empty or a new directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes an object, indented; another process sees the file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf8")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads an object; a ValueError says what is wrong with the file."""
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}")
    try:
        values = json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not an object")
    return values


def _read_weights(folder: Path) -> dict[str, Tensor]:
    index = folder / f"{WEIGHTS}.index.json"
    single = [folder / WEIGHTS, folder / WEIGHTS.replace(".safetensors", ".fp16.safetensors")]
    if index.is_file():
        names = set(read_json(index).get("weight_map", {}).values())
        if wrong := sorted(str(name) for name in names if Path(str(name)).name != name):
            raise ValueError(f"{index} names {wrong[0]!r}; the files of a model lie beside their index")
        files = sorted(folder / name for name in names)
    else:
        files = [file for file in single if file.is_file()][:1]
    if not files:
        raise ValueError(f"{folder} has no {WEIGHTS}; only safetensors are read")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= load_file(file)
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{file} is not readable: {error}") from error
    return state
