"""Models with random weights for the benchmarks, and what their machine could do."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from diception.model.autoencoder import Autoencoder
from diception.model.bank import PromptBank
from diception.model.diception import Diception, ModelSettings
from diception.model.points import PointEmbedder
from diception.model.text_encoders import StableDiffusion3Encoder
from diception.model.transformer import DiceptionTransformer
from diception.tasks import get_task

# Widths of Stable Diffusion 3 medium and 3.5 medium, of two blocks of the first with small encoders, and small ones.
MODELS: dict[str, dict[str, Any]] = {
    "medium": {"layers": 24, "vae": 128, "groups": 32, "clips": ((768, 12, 12), (1280, 32, 20)), "t5": (4096, 24, 64)},
    "medium35": {"layers": 24, "vae": 128, "groups": 32, "clips": ((768, 12, 12), (1280, 32, 20)), "t5": (4096, 24, 64)}
    | {"more": {"qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)), "pos_embed_max_size": 384}},
    "small": {"layers": 4, "heads": 4, "vae": 8, "groups": 4, "clips": ((24, 3, 3), (32, 3, 4)), "t5": (64, 2, 4)},
    "ref1536": {"layers": 2, "vae": 8, "groups": 4, "clips": ((24, 3, 3), (32, 3, 4)), "t5": (64, 2, 4)},
}
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 FLOP/s of the makers' data sheets."""


def build_model(sizes: dict[str, Any]) -> Diception:
    """Random weights in torch's default type and device."""
    t5_width, pooled = sizes["t5"][0], sum(width for width, _, _ in sizes["clips"])
    heads = sizes.get("heads", 24)
    shape = {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": sizes["layers"],
        "attention_head_dim": 64,
        "num_attention_heads": heads,
        "joint_attention_dim": t5_width,
        "caption_projection_dim": 64 * heads,
        "pooled_projection_dim": pooled,
        "pos_embed_max_size": 192,
    }
    transformer = DiceptionTransformer(**shape | sizes.get("more", {}))
    width = sizes["vae"]
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=sizes["groups"],
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    settings = ModelSettings(tasks=[get_task("depth").as_dict()])
    return Diception(transformer, PointEmbedder(64 * heads, "fourier"), Autoencoder(vae), PromptBank(), settings).eval()


def build_encoder(sizes: dict[str, Any]) -> StableDiffusion3Encoder:
    """The three text encoders with random weights; every prompt has the same tokens, which costs the same."""
    clips = []
    for width, layers, heads in sizes["clips"]:
        shape = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
        config = CLIPTextConfig(**shape, num_hidden_layers=layers, num_attention_heads=heads, eos_token_id=2)
        clips.append(CLIPTextModelWithProjection(config).eval())
    width, layers, heads = sizes["t5"]
    feed_forward = {"d_ff": width * 5 // 2, "feed_forward_proj": "gated-gelu"}
    t5 = T5EncoderModel(
        T5Config(d_model=width, num_layers=layers, num_heads=heads, d_kv=width // heads, **feed_forward)
    )
    return StableDiffusion3Encoder(clips, [_tokens, _tokens], t5.eval(), _tokens)  # type: ignore[list-item, arg-type]


def _tokens(prompts: list[str], max_length: int, **_: object) -> dict[str, list[list[int]]]:
    return {"input_ids": [[2] * max_length for _ in prompts]}


def peak_flops(device: torch.device, dtype: str) -> float:
    """FLOP/s of the data sheet for a GPU; on a CPU, and for an unknown GPU, of a large product of matrices."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = [flops for part, flops in PEAK.items() if part in name]
    if known and dtype == "bfloat16":
        return known[0]
    side = 2048 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def machine(device: torch.device) -> str:
    """What ran this."""
    cpu = f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}"
    return f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu}, torch {torch.__version__}"
