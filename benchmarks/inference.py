"""Speed and memory of inference, beside a plain loop that does what the released code does.

    python benchmarks/inference.py --model ref1536 --size 512                            (on the CPU)
    python benchmarks/inference.py --model medium --device cuda --dtype bfloat16         (a GPU of 24 GB or more)

Weights are random: only time and memory count. Every variant runs in a process of its own, so that the memory of one is
not that of another; rounds alternate between them, and medians are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from diception.config import SamplingConfig
from diception.inference import generate, make_batch
from diception.inference.requests import Checked
from diception.model.autoencoder import Autoencoder
from diception.model.diception import Diception, ModelSettings
from diception.model.points import PointEmbedder
from diception.model.text import PromptBank
from diception.model.text_encoders import StableDiffusion3Encoder
from diception.model.transformer import DiceptionTransformer
from diception.tables import format_table
from diception.tasks import get_task

VARIANTS = ("plain", "eager", "compiled")
SETTINGS = {"28 steps, guidance 2": (28, 2.0), "1 step, guidance 1": (1, 1.0)}
PROMPT = "[[image2depth]]"

# Widths of Stable Diffusion 3 medium, and of two of its blocks with small encoders.
MODELS: dict[str, dict[str, Any]] = {
    "medium": {"layers": 24, "vae": 128, "groups": 32, "clips": ((768, 12, 12), (1280, 32, 20)), "t5": (4096, 24, 64)},
    "ref1536": {"layers": 2, "vae": 8, "groups": 4, "clips": ((24, 3, 3), (32, 3, 4)), "t5": (64, 2, 4)},
}
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 FLOP/s of the makers' data sheets."""


def build_model(sizes: dict[str, Any]) -> Diception:
    """Random weights in torch's default type and device."""
    t5_width, pooled = sizes["t5"][0], sum(width for width, _, _ in sizes["clips"])
    transformer = DiceptionTransformer(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=sizes["layers"],
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=t5_width,
        caption_projection_dim=1536,
        pooled_projection_dim=pooled,
        pos_embed_max_size=192,
    )
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
    return Diception(transformer, PointEmbedder(1536, "fourier"), Autoencoder(vae), PromptBank(), settings).eval()


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


@torch.no_grad()
def plain_loop(
    model: Diception, encoder: StableDiffusion3Encoder, image: NDArray[np.uint8], steps: int, scale: float
) -> Tensor:
    """What the released code does for one image: encoders on every call, diffusers' scheduler, no compilation."""
    vae: Any = model.autoencoder.vae
    prompts = ["", PROMPT] if scale > 1 else [PROMPT]
    context, pooled = (tensor.to(model.device, model.dtype) for tensor in encoder(prompts))
    empty = torch.zeros(len(prompts), 5, 2, device=model.device)
    points = model.points(empty, empty[..., 0].bool())
    pixels = torch.from_numpy(image).to(model.device, model.dtype).permute(2, 0, 1)[None] / 127.5 - 1
    latents = (vae.encode(pixels).latent_dist.sample() - vae.config.shift_factor) * vae.config.scaling_factor
    images = latents.repeat(len(prompts), 1, 1, 1)
    latents = torch.randn_like(latents)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps, device=model.device)
    for t in scheduler.timesteps:
        velocity = model.transformer(
            latents.repeat(len(prompts), 1, 1, 1), images, t.expand(len(prompts)), context, pooled, points
        )
        if scale > 1:
            without, given = velocity.chunk(2)
            velocity = without + scale * (given - without)
        latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    latents = latents / vae.config.scaling_factor + vae.config.shift_factor
    return (vae.decode(latents.to(vae.dtype), return_dict=False)[0] / 2 + 0.5).clamp(0, 1).cpu()


def our_loop(model: Diception, image: NDArray[np.uint8], steps: int, scale: float) -> Tensor:
    """The same through this project's loop."""
    question = Checked(get_task("depth"), np.zeros((0, 2), np.float32), PROMPT, 0)
    batch = make_batch([image], [question], image.shape[:2]).to(model.device)
    return generate(model, batch, SamplingConfig(steps, scale)).cpu()


def run_variant(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds, FLOPs and peak bytes of every setting, in this process."""
    device, sizes = torch.device(arguments.device), MODELS[arguments.model]
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    with device:
        model = build_model(sizes)
        encoder = build_encoder(sizes)
    torch.set_default_dtype(torch.float32)
    image = (np.random.default_rng(0).random((arguments.size, arguments.size, 3)) * 255).astype(np.uint8)
    if arguments.variant != "plain":
        model.bank.put(["", PROMPT], *encoder(["", PROMPT]))
        del encoder
    if arguments.variant == "compiled":
        model.transformer.compile_repeated_blocks(fullgraph=True)
    found = {}
    for name, (steps, scale) in SETTINGS.items():

        def call(steps: int, scale: float = scale) -> Tensor:
            if arguments.variant == "plain":
                return plain_loop(model, encoder, image, steps, scale)
            return our_loop(model, image, steps, scale)

        found[name] = _measure(call, steps, device, arguments.repeats, count=arguments.variant == "eager")
    return found


def _measure(
    call: Callable[[int], Tensor], steps: int, device: torch.device, repeats: int, count: bool
) -> dict[str, float]:
    for _ in range(2):
        call(1)  # warm, compiled
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call(steps)
        seconds.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory
    result = {"seconds": statistics.median(seconds), "bytes": float(memory)}
    if count:
        one, two = _flops(call, 1), _flops(call, 2)
        result["flops"] = one + (steps - 1) * (two - one)
    return result


def _flops(call: Callable[[int], Tensor], steps: int) -> float:
    with FlopCounterMode(display=False) as counter:
        call(steps)
    return float(counter.get_total_flops())


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


def main() -> None:
    """Runs the variants in turn, or, with --variant, one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="ref1536")
    parser.add_argument("--size", type=int, default=768, help="side in pixels (default 768)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of a process (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of every variant, in turn (default 3)")
    parser.add_argument("--variant", choices=VARIANTS, help="run this one here and print JSON")
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(run_variant(arguments)))
        return
    runs: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    for index in range(arguments.rounds):
        for variant in VARIANTS:
            print(f"round {index + 1} of {arguments.rounds}: {variant}", file=sys.stderr)
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[variant].append(json.loads(done.stdout.splitlines()[-1]))
    report(runs, torch.device(arguments.device), arguments.dtype)


def report(runs: dict[str, list[dict]], device: torch.device, dtype: str) -> None:
    """A table per setting; the ratio is of the same round's plain loop."""
    peak = peak_flops(device, dtype)
    print(f"{machine(device)}; {dtype}; peak {peak / 1e12:.2f} TFLOP/s")
    for setting in SETTINGS:
        flops, rows = runs["eager"][0][setting]["flops"], []
        for variant, rounds in runs.items():
            seconds = [r[setting]["seconds"] for r in rounds]
            faster = [p[setting]["seconds"] / s for p, s in zip(runs["plain"], seconds, strict=True)]
            values = {"seconds": statistics.median(seconds), "times plain": statistics.median(faster)}
            values["GiB"] = max(r[setting]["bytes"] for r in rounds) / 2**30
            values["share of peak"] = flops / statistics.median(seconds) / peak
            rows.append((variant, values))
        print(f"\n{setting}: {flops / 1e12:.2f} TFLOP an image")
        print(format_table(rows, ["seconds", "times plain", "GiB", "share of peak"]))


if __name__ == "__main__":
    main()
