"""The model directory: written whole or not at all, read strictly."""

from __future__ import annotations

import importlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from diception.model.autoencoder import Autoencoder
from diception.model.bank import PromptBank
from diception.model.diception import Diception, ModelSettings
from diception.model.memory import is_quantized
from diception.model.points import PointEmbedder
from diception.model.text import TextEncoder
from diception.model.transformer import DiceptionTransformer
from diception.model.weights import TINY, atomic_directory, load_module, read_json, save_module, write_json

SETTINGS = "diception.json"
FORMAT = 1
TEXT_FOLDERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
SD3_LICENCE = "other: under the licence of Stable Diffusion 3"
SD3_LENGTH = 77 + 256
"""Tokens of the context, from CLIP and T5, where no bank says it."""


def save_model(
    model: Diception,
    directory: str | Path,
    dtype: torch.dtype | None = None,
    text_encoders: str | Path | None = None,
    autoencoder_dtype: torch.dtype | None = None,
    card: str = "",
) -> Path:
    """Writes a model directory in diffusers' layout; an older model there is replaced in one step.

    Args:
        model: without an adapter.
        directory: does not exist, is empty, or holds a model.
        dtype: of the stored weights of transformer and points, the prompts with them; their own by default.
        text_encoders: a diffusers directory whose text encoders and tokenizers are copied.
        autoencoder_dtype: of the autoencoder's stored weights; their own by default.
        card: Markdown for its README.md, if any.

    Returns:
        The directory.
    """
    if any(".lora_" in name for name, _ in model.transformer.named_parameters()):
        raise ValueError("the model has an adapter; merge or remove it before saving")
    if is_quantized(model):
        raise ValueError("the model's blocks are quantised; load it without that to save it")
    known = set(model.bank.prompts)
    model.bank.add([p for p in ["", *[task["token"] for task in model.settings.tasks]] if p not in known])
    with atomic_directory(directory, marker=SETTINGS) as folder:
        save_module(model.transformer, folder / "transformer", dtype, "SD3Transformer2DModel")
        save_module(model.points, folder / "points", dtype)
        save_module(model.autoencoder.vae, folder / "vae", autoencoder_dtype)
        FlowMatchEulerDiscreteScheduler(shift=model.settings.shift).save_pretrained(folder / "scheduler")
        model.bank.save(folder / "prompts.safetensors", dtype)
        for name in TEXT_FOLDERS if text_encoders is not None else ():
            shutil.copytree(Path(str(text_encoders)) / name, folder / name)
        write_json(folder / "model_index.json", _model_index(model, text_encoders is not None))
        if card:
            (folder / "README.md").write_text(card, encoding="utf8")
        write_json(folder / SETTINGS, {"format": FORMAT, **model.settings.as_dict()})
    return Path(directory)


def load_model(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32
) -> Diception:
    """Reads a model directory, or `tiny`, the model that comes with the package; `dtype` None keeps the stored type.

    Raises:
        ValueError: no such directory, no model in it, or weights with missing or unexpected keys, which it lists.
    """
    root = TINY if str(path) == "tiny" else Path(path)
    if not root.is_dir():
        raise ValueError(f"no model at {str(path)!r}: neither a directory nor `tiny`")
    if not (root / SETTINGS).is_file():
        hint = "; it looks like Stable Diffusion 3: train from it with model.base" if is_stable_diffusion(root) else ""
        raise ValueError(f"{root} has no {SETTINGS}, so it is not a model directory{hint}")
    values = read_json(root / SETTINGS)
    if values.pop("format", None) != FORMAT:
        raise ValueError(f"{root / SETTINGS}: unknown format; this version reads format {FORMAT}")
    transformer = load_module(DiceptionTransformer, root / "transformer")
    points = load_module(PointEmbedder, root / "points")
    autoencoder = Autoencoder.from_pretrained(root / "vae")
    bank = PromptBank.load(root / "prompts.safetensors", text_encoder_loader(root, device, dtype or torch.float32))
    model = Diception(transformer, points, autoencoder, bank, ModelSettings.from_dict(values))
    return model.to(device=device, dtype=dtype).eval()


def transformer_outline(path: str | Path) -> tuple[dict[str, Any], int]:
    """The transformer's config and the length of its context, of whatever training starts from; no weights are read.

    Args:
        path: a model directory, Stable Diffusion 3 in diffusers' layout, or `tiny`.

    Raises:
        ValueError: no such directory, or it has no transformer and vae.
    """
    root = TINY if str(path) == "tiny" else Path(path)
    for part in ("transformer", "vae"):
        if not (root / part).is_dir():
            raise ValueError(f"no model at {str(path)!r}: {root / part} is not there")
        if not any((root / part).glob("*.safetensors")):
            raise ValueError(f"no model at {str(path)!r}: {root / part} has no .safetensors file")
    bank = root / "prompts.safetensors"
    return read_json(root / "transformer" / "config.json"), PromptBank.length(bank) if bank.is_file() else SD3_LENGTH


def is_stable_diffusion(directory: str | Path) -> bool:
    """Whether a folder holds Stable Diffusion 3 in diffusers' layout, and not yet a model of this project."""
    root = Path(directory)
    return (root / "transformer").is_dir() and (root / "vae").is_dir() and not (root / SETTINGS).is_file()


def from_stable_diffusion(
    directory: str | Path,
    generator: torch.Generator,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    point_order: str = "yx",
) -> Diception:
    """A model whose transformer, autoencoder and text encoders are Stable Diffusion 3's, with fresh point weights.

    Args:
        directory: Stable Diffusion 3 or 3.5 in diffusers' layout.
        generator: draws the weights of the point embedder.
        device: where it goes.
        dtype: of the weights.
        point_order: order of a point's coordinates that training will use.
    """
    root = Path(directory)
    if not is_stable_diffusion(root):
        raise ValueError(f"{root} has no transformer and vae folders: not Stable Diffusion 3 in diffusers' layout")
    transformer = load_module(DiceptionTransformer, root / "transformer")
    points = PointEmbedder(transformer.inner_dim, "fourier", point_order)
    points.initialize(generator)
    autoencoder = Autoencoder.from_pretrained(root / "vae")
    bank = PromptBank(load_encoder=text_encoder_loader(root, device, dtype))
    settings = ModelSettings(base_model=root.name, licence=SD3_LICENCE)
    return Diception(transformer, points, autoencoder, bank, settings).to(device=device, dtype=dtype).eval()


def text_encoder_loader(root: Path, device: str | torch.device, dtype: torch.dtype) -> partial[TextEncoder] | None:
    """Loads the text encoders of a directory on first need; None where it has none."""
    if not (root / TEXT_FOLDERS[0]).is_dir():
        return None
    # Imported late: without a text encoder nothing needs transformers.
    module = importlib.import_module("diception.model.text_encoders")
    return partial(module.StableDiffusion3Encoder.from_pretrained, root, device, dtype)


def _model_index(model: Diception, has_text: bool) -> dict[str, Any]:
    clip, t5 = ["transformers", "CLIPTextModelWithProjection"], ["transformers", "T5EncoderModel"]
    tokenizers = [["transformers", "CLIPTokenizer"]] * 2 + [["transformers", "T5TokenizerFast"]]
    text = [clip, clip, t5, *tokenizers] if has_text else [[None, None]] * 6
    vae = type(model.autoencoder.vae)
    library = "diffusers" if vae.__module__.startswith("diffusers") else vae.__module__
    return {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": [library, vae.__name__],
        **dict(zip(TEXT_FOLDERS, text, strict=True)),
    }
