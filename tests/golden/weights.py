"""Deterministic weights of a tiny Stable Diffusion 3 and of a release made from it, from which the golden outputs come.

Values come from numpy's frozen RandomState, keyed on the sha256 of seed, component and parameter name, so they depend
neither on torch's generator nor on the order of construction.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

GOLDEN = Path(__file__).parent / "released_small128_seed0.npz"
WIDTH, LAYERS, HEADS = 128, 4, 4
T5_WIDTH, CLIP_WIDTHS = 64, (24, 32)
TRANSFORMER = "transformer[small128]"
EMBEDDINGS = ("embedding", "shared", "embed_tokens", "relative_attention_bias")
T5_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[](){}.,:;!?'\"-_/+*&%$#@=<>|~^`\\"
T5_WORDS = ["image", "depth", "normal", "seg", "ment", "ation", "person", "▁a"]
MERGES = [("d", "e"), ("de", "p"), ("t", "h</w>"), ("i", "m"), ("im", "a"), ("s", "e"), ("se", "g")]


def normal(seed: int, name: str, shape: tuple[int, ...], scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Gaussian tensor of a shape, from seed and name alone."""
    key = hashlib.sha256(f"{seed}|{name}".encode()).digest()[:16]
    drawn = np.random.RandomState(np.frombuffer(key, dtype=np.uint32)).standard_normal(size=shape)
    return torch.from_numpy(drawn.astype(np.float32) * np.float32(scale) + np.float32(shift))


@torch.no_grad()
def fill(module: nn.Module, seed: int, prefix: str) -> nn.Module:
    """Fills every parameter by its name: gains near 1, small biases, matrices that keep the variance."""
    for name, parameter in module.named_parameters():
        key, shape = f"{prefix}.{name}", tuple(parameter.shape)
        if len(shape) == 1:
            scale, shift = (0.05, 1.0) if name.endswith("weight") else (0.02, 0.0)
            parameter.copy_(normal(seed, key, shape, scale, shift))
        elif any(word in name for word in EMBEDDINGS):
            parameter.copy_(normal(seed, key, shape, 0.3))
        else:
            parameter.copy_(normal(seed, key, shape, 1.0 / np.sqrt(math.prod(shape[1:]))))
    return module.eval()


def build_transformer(seed: int) -> SD3Transformer2DModel:
    """Stable Diffusion 3's transformer, 4 blocks 128 wide."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=sum(CLIP_WIDTHS),
        pos_embed_max_size=24,
    )
    fill(transformer, seed, TRANSFORMER)
    return transformer


def build_vae(seed: int) -> AutoencoderKL:
    """A small autoencoder with SD3's scale and shift, whose posterior has next to no variance."""
    blocks: dict[str, Any] = {
        "block_out_channels": (8, 16, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    vae: Any = AutoencoderKL(
        **blocks,
        latent_channels=16,
        layers_per_block=2,
        norm_num_groups=4,
        sample_size=128,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    fill(vae, seed, "vae")
    with torch.no_grad():
        vae.encoder.conv_out.weight[16:] = 0
        vae.encoder.conv_out.bias[16:] = -30
    return vae


def write_stable_diffusion(root: Path, seed: int = 0) -> None:
    """Writes the base in diffusers' layout, with its three text encoders and tokenizers."""
    build_transformer(seed).save_pretrained(root / "transformer")
    build_vae(seed).save_pretrained(root / "vae")
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).save_pretrained(root / "scheduler")
    for index, (width, act, pad) in enumerate(
        zip(CLIP_WIDTHS, ("quick_gelu", "gelu"), ("<|endoftext|>", "!"), strict=True)
    ):
        suffix = "" if index == 0 else "_2"
        config = CLIPTextConfig(
            vocab_size=len(_clip_vocabulary()),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=3,
            num_attention_heads=3 if index == 0 else 4,
            hidden_act=act,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
        encoder = CLIPTextModelWithProjection(config)
        fill(encoder, seed, f"text_encoder{index}")
        encoder.save_pretrained(root / f"text_encoder{suffix}")
        _write_clip_tokenizer(root / f"tokenizer{suffix}", pad)
    t5_config = T5Config(
        vocab_size=4 + len(T5_CHARACTERS) + len(T5_WORDS) + 100,
        d_model=T5_WIDTH,
        d_kv=16,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    t5 = T5EncoderModel(t5_config)
    fill(t5, seed, "text_encoder_3")
    t5.save_pretrained(root / "text_encoder_3")
    _write_t5_tokenizer(root / "tokenizer_3")


def release(seed: int = 0) -> dict:
    """What the released `DICEPTION_v1.pth` holds: five keys; the transformer is not the base's."""
    mlp = {
        "0.weight": normal(seed, "pe.0.weight", (2048, 2048), 1 / np.sqrt(2048)),
        "0.bias": normal(seed, "pe.0.bias", (2048,), 0.02),
        "2.weight": normal(seed, "pe.2.weight", (WIDTH, 2048), 1 / np.sqrt(2048)),
        "2.bias": normal(seed, "pe.2.bias", (WIDTH,), 0.02),
    }
    return {
        "transformer": build_transformer(seed + 1).state_dict(),
        "point_embedder": mlp,
        "not_seg_embeddings": {"weight": normal(seed, "not_seg", (1, WIDTH), 0.5)},
        "seg_embeddings": {"weight": normal(seed, "seg", (1, WIDTH), 0.5)},
        "positional_encoding_gaussian_matrix": normal(seed, "gauss", (2, 1024)),
    }


def _write_json(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf8")


def _clip_vocabulary() -> dict[str, int]:
    """Bytes, as CLIP's tokenizer writes them, alone and at the end of a word, then a few merges."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in MERGES]
    return {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def _write_clip_tokenizer(folder: Path, pad: str) -> None:
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = pad
    _write_json(folder / "vocab.json", _clip_vocabulary())
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf8")
    _write_json(folder / "special_tokens_map.json", special)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", special | settings)


def _write_t5_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    extra = [f"<extra_id_{i}>" for i in range(99, -1, -1)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(letter, -5.0 - 0.01 * i) for i, letter in enumerate(T5_CHARACTERS)]
    vocabulary += [(word, -3.0 - 0.01 * i) for i, word in enumerate(T5_WORDS)]
    vocabulary += [(token, 0.0) for token in extra]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    metaspace = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    splits = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**metaspace)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Metaspace(**metaspace)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", *extra[::-1]])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"additional_special_tokens": extra[::-1], "extra_ids": 100, "model_max_length": 512}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", special | settings | {"tokenizer_class": "T5Tokenizer"})
