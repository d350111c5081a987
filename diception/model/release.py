"""The released file `DICEPTION_v1.pth`: a model from it on top of Stable Diffusion 3, and back again, bit by bit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diception.model.autoencoder import Autoencoder
from diception.model.bank import PromptBank
from diception.model.checkpoint import is_stable_diffusion, text_encoder_loader
from diception.model.diception import Diception, ModelSettings
from diception.model.points import PointEmbedder
from diception.model.transformer import DiceptionTransformer
from diception.model.weights import read_json

POINTS = {
    "mlp.0.weight": ("point_embedder", "0.weight"),
    "mlp.0.bias": ("point_embedder", "0.bias"),
    "mlp.2.weight": ("point_embedder", "2.weight"),
    "mlp.2.bias": ("point_embedder", "2.bias"),
    "seg_embedding": ("seg_embeddings", "weight"),
    "not_seg_embedding": ("not_seg_embeddings", "weight"),
    "gaussian_matrix": ("positional_encoding_gaussian_matrix", ""),
}
"""Names of the point embedder to the released ones: the part of the file, and the name within it."""
PARTS = ("transformer", *dict.fromkeys(part for part, _ in POINTS.values()))
"""What a released file holds."""
LICENCE = "other: BSD-2-Clause for academic use, under the licence of Stable Diffusion 3"


def from_release(
    base: str | Path,
    release: str | Path,
    point_order: str = "yx",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Diception:
    """The released model, its weights in their stored type.

    Args:
        base: Stable Diffusion 3 in diffusers' layout, of which autoencoder, text encoders and the transformer's shape
            are taken.
        release: the released `.pth`.
        point_order: order of a point's coordinates, `yx` or `xy`: the released codes for one image and for batches
            disagree, so at most one is what the weights were trained with.
        device: where the text encoders run.
        dtype: of the text encoders, and so of the prompts.

    Raises:
        ValueError: a base without transformer or autoencoder, a file that holds more than tensors, or keys that are
            missing, unexpected or of another shape; lists them.
    """
    root = Path(base)
    _check_base(root)
    values = read_release(release)
    with torch.device("meta"):
        config = read_json(root / "transformer" / "config.json")
        transformer: Any = DiceptionTransformer.from_config(config)
        points = PointEmbedder(transformer.inner_dim, "fourier", point_order)
    own = {f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()}
    own |= {_join(*POINTS[name]): tensor for name, tensor in points.state_dict().items()}
    _check_keys(own, values, release)
    parts = {name: values[_join(*place)] for name, place in POINTS.items()}
    transformer.load_state_dict({name: values[f"transformer.{name}"] for name in transformer.state_dict()}, assign=True)
    points.load_state_dict(parts, assign=True)
    bank = PromptBank(load_encoder=text_encoder_loader(root, device, dtype))
    settings = ModelSettings(licence=LICENCE, base_model=f"{root.name}, {Path(release).name}", lanczos=True)
    autoencoder = Autoencoder.from_pretrained(root / "vae")
    return Diception(transformer, points, autoencoder, bank, settings).eval()


def read_release(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a released file by dotted name; nothing in it is executed.

    Raises:
        ValueError: no such file, not a checkpoint, or one that holds more than tensors.
    """
    if not Path(path).is_file():
        raise ValueError(f"no file {path}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{path} is refused: not a checkpoint of tensors alone ({reason})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected a dict with {', '.join(PARTS)}")
    flat: dict[str, Tensor] = {}
    for part, content in values.items():
        named = content if isinstance(content, dict) else {"": content}
        for key, tensor in named.items():
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{path}: {_join(str(part), str(key))} is a {type(tensor).__name__}, not a tensor")
            flat[_join(str(part), str(key))] = tensor
    return flat


def to_release(model: Diception) -> dict[str, Any]:
    """What the released file holds, of any model with Fourier points.

    The inverse of `from_release` but for what the file cannot say: the order of points and the tasks' encodings.

    Raises:
        ValueError: the model has an adapter, or points that the released code cannot embed.
    """
    if any(".lora_" in name for name, _ in model.transformer.named_parameters()):
        raise ValueError("the model has an adapter; merge it before writing the released format")
    if model.points.encoding != "fourier":
        raise ValueError(f"the released format knows fourier points only, this model has {model.points.encoding!r}")
    values: dict[str, Any] = {part: {} for part in PARTS}
    values["transformer"] = _stored(model.transformer)
    for name, tensor in _stored(model.points).items():
        part, key = POINTS[name]
        if key:
            values[part][key] = tensor
        else:
            values[part] = tensor
    return values


def _stored(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def _join(part: str, key: str) -> str:
    return f"{part}.{key}".rstrip(".")


def _check_base(root: Path) -> None:
    missing = [name for name in ("transformer", "vae") if not (root / name).is_dir()]
    if missing or not is_stable_diffusion(root):
        raise ValueError(
            f"{root} has no {' and no '.join(missing) or 'plain base'}: not Stable Diffusion 3 of diffusers"
        )


def _check_keys(own: dict[str, Tensor], values: dict[str, Tensor], path: str | Path) -> None:
    wrong = [f"missing {name}" for name in sorted(own.keys() - values.keys())]
    wrong += [f"unexpected {name}" for name in sorted(values.keys() - own.keys())]
    wrong += [
        f"shape of {name} {tuple(values[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & values.keys())
        if own[name].shape != values[name].shape
    ]
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} keys do not fit: {', '.join(wrong[:8])}")
