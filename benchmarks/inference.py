"""Speed and memory of inference, beside a plain loop that does what the released code does.

    python benchmarks/inference.py --model ref1536 --size 512                            (on the CPU)
    python benchmarks/inference.py --model medium --device cuda --dtype bfloat16         (a GPU of 24 GB or more)

Weights are random: only time and memory count. Every variant runs in a process of its own, so that the memory of one is
not that of another; rounds alternate between them, and medians are printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from models import MODELS, build_encoder, build_model, machine, peak_flops
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diception.config import SamplingConfig
from diception.inference import generate, make_batch
from diception.inference.requests import Checked
from diception.model.diception import Diception
from diception.model.text_encoders import StableDiffusion3Encoder
from diception.tables import format_table
from diception.tasks import get_task

VARIANTS = ("plain", "eager", "compiled")
SETTINGS = {"28 steps, guidance 2": (28, 2.0), "1 step, guidance 1": (1, 1.0)}
PROMPT = "[[image2depth]]"


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
