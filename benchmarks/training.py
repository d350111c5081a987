"""Speed and memory of training, beside a plain loop as in diffusers' SD3 example scripts.

    python benchmarks/training.py --model small --size 128 --batch 8                    (on the CPU)
    python benchmarks/training.py --model medium --size 768 --batch 16                  (a GPU of 80 GB or more)
    python benchmarks/training.py --model medium35 --size 1024 --batch 3 --variants cached cached_again

Weights are random: only time and memory count. Ours are whole runs of the trainer, average and logs included, from
shards; the plain loop encodes text and pictures in every step, in float32, and compiles nothing; `cached` is a LoRA of
rank 128 on latents and embeddings that are there already, without image tokens. Every variant runs in a process of its
own; rounds alternate between them, and medians are printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from models import MODELS, build_encoder, build_model, machine, peak_flops
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from diception.config import AdapterConfig, DataConfig, ModelConfig, OptimConfig, SourceConfig, TrainConfig
from diception.datasets.mixture import PositionSampler
from diception.datasets.sample import Batch, collate
from diception.datasets.synthetic import render_scene
from diception.datasets.writer import ShardWriter, write_samples
from diception.flow import add_noise, draw, velocity_target
from diception.model.diception import Diception
from diception.model.lora import add_lora
from diception.tables import format_table
from diception.tasks import get_task
from diception.training.datamodule import open_stream
from diception.training.flops import training_flops
from diception.training.run import fit

TASKS = {"depth": 0.5, "normal": 0.5}
PROMPTS = ["", *(get_task(name).prompt() for name in TASKS)]
OURS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, checkpointed": {"again": 1},
    "full, compiled": {"compile": True},
    "full, checkpointed, compiled": {"again": 1, "compile": True},
    "LoRA": {"lora": True},
    "LoRA, checkpointed": {"lora": True, "again": 1},
    "LoRA, compiled": {"lora": True, "compile": True},
}
OTHERS = ("plain", "plain LoRA", "cached", "cached_again")
COLUMNS = ["samples/s", "times plain", "share of peak", "GiB", "data wait"]


def run_config(
    arguments: argparse.Namespace, run: str, lora: bool = False, again: int = 0, compile: bool = False
) -> Any:
    """The config of one of ours."""
    fast = arguments.device == "cuda"
    model = ModelConfig(gradient_checkpointing=again, compile=compile)
    model.autoencoder_precision = "bf16" if fast else "fp32"
    model.base_precision = "bf16" if lora and fast else "fp32"
    source = SourceConfig(name="scenes", shards=arguments.shards, weight=1.0, tasks=dict(TASKS))
    return TrainConfig(
        run=run,
        steps=arguments.steps,
        batch_size=arguments.batch,
        precision="bf16-mixed" if fast else "32-true",
        log_every=arguments.steps,
        loggers=["csv"],
        validate_every=0,
        checkpoint_every=10**9,
        model=model,
        data=DataConfig(sources=[source], size=arguments.size, workers=arguments.workers),
        optim=OptimConfig(),
        adapter=AdapterConfig(rank=arguments.rank) if lora else None,
    )


class Times(Callback):
    """Seconds of every step, the wait for data first, by a clock that waits for the device."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.ended = time.perf_counter()
        self.wait = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.wait = time.perf_counter() - self.ended

    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps.append((now - self.ended, self.wait))
        self.ended = now


def prepare(arguments: argparse.Namespace, config: TrainConfig) -> tuple[Diception, Any]:
    """A model as `build_model` of a run would make it, and its text encoders."""
    with torch.device(arguments.device):
        model, encoder = build_model(MODELS[arguments.model]), build_encoder(MODELS[arguments.model])
    model.autoencoder.requires_grad_(False)
    model.autoencoder.encodes_in_bf16 = config.model.autoencoder_precision == "bf16"
    if config.adapter is not None:
        add_lora(model, rank=config.adapter.rank)
    if config.model.base_precision == "bf16":
        for parameter in [p for p in model.transformer.parameters() if not p.requires_grad]:
            parameter.data = parameter.data.bfloat16()
    if config.model.gradient_checkpointing:
        model.transformer.enable_gradient_checkpointing()
    return model, encoder


def ours(arguments: argparse.Namespace, folder: str) -> tuple[list[tuple[float, float]], float]:
    """Seconds of every step of a run of the trainer, and operations of a sample."""
    config, times = run_config(arguments, folder, **OURS[arguments.variant]), Times()
    model, encoder = prepare(arguments, config)
    model.bank.put(PROMPTS, *encoder(PROMPTS))
    del encoder
    stream = open_stream(config.data, {name: get_task(name) for name in TASKS}, 0)
    fit(model, stream, [], config, [times])
    return times.steps, training_flops(model, arguments.size)


def plain(arguments: argparse.Namespace, folder: str) -> tuple[list[tuple[float, float]], float]:
    """The same samples and loss, all encoders in every step, AdamW as torch has it, no average."""
    config = run_config(arguments, folder, lora="LoRA" in arguments.variant)
    config.model.autoencoder_precision = config.model.base_precision = "fp32"
    model, encoder = prepare(arguments, config)
    model.train()
    stream = open_stream(config.data, {name: get_task(name) for name in TASKS}, 0)
    sampler = PositionSampler(arguments.batch, 0, arguments.steps)
    loader = DataLoader(stream, batch_sampler=sampler, collate_fn=collate, num_workers=arguments.workers)

    def step(batch: Batch) -> Tensor:
        assert batch.target is not None
        with torch.no_grad():
            with torch.autocast(model.device.type, enabled=False):
                context, pooled = encoder(batch.prompts)
            image_latents, latents = (model.encode(p) for p in (batch.image, batch.target))
        drawn = draw(batch.seeds, tuple(latents.shape[1:]))
        noise, sigmas = drawn.noise.to(latents.device), drawn.sigmas.to(latents.device)
        points = model.points(batch.points, batch.point_mask)
        noisy = add_noise(latents, noise, sigmas)
        velocity = model.transformer(noisy, image_latents, 1000 * sigmas, context, pooled, points)
        return F.mse_loss(velocity.float(), velocity_target(latents, noise))

    return _loop(model, (batch.to(model.device) for batch in loader), step, fused=False), 0.0


def cached(arguments: argparse.Namespace, folder: str) -> tuple[list[tuple[float, float]], float]:
    """LoRA steps on latents and embeddings that are there already, without image tokens."""
    again = 1 if "again" in arguments.variant else 0
    config = run_config(arguments, folder, lora=True, again=again)
    model, encoder = prepare(arguments, config)
    device, count = model.device, arguments.batch
    context, pooled = (t.to(device).expand(count, *t.shape[1:]) for t in encoder([""]))
    del encoder
    if device.type == "cuda":
        model.transformer.compile_repeated_blocks()
    model.train()
    latents = torch.randn(count, 16, arguments.size // 8, arguments.size // 8, device=device)

    def step(_: int) -> Tensor:
        sigmas, noise = torch.rand(count, device=device), torch.randn_like(latents)
        velocity = model.transformer(add_noise(latents, noise, sigmas), None, 1000 * sigmas, context, pooled)
        return F.mse_loss(velocity.float(), velocity_target(latents, noise))

    return _loop(model, iter(range(arguments.steps)), step, fused=device.type == "cuda"), 0.0


def _loop(model: Diception, batches: Iterator[Any], step: Any, fused: bool) -> list[tuple[float, float]]:
    """Optimizer steps, with the seconds of each and of its wait for data."""
    trained, times = list(model.trainable_parameters().values()), Times()
    optimizer = torch.optim.AdamW(trained, lr=2e-5, fused=fused)
    bf16 = torch.autocast("cuda", torch.bfloat16) if model.device.type == "cuda" else nullcontext()
    for batch in batches:
        times.on_train_batch_start()
        with bf16:
            loss = step(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.on_train_batch_end()
    return times.steps


def run_variant(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step, share of it that waits, peak bytes and operations of a sample, in this process."""
    function = ours if arguments.variant in OURS else plain if "plain" in arguments.variant else cached
    with tempfile.TemporaryDirectory() as folder:
        steps, flops = function(arguments, f"{folder}/run")
    counted = steps[arguments.warm :]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if arguments.device == "cuda":
        memory = torch.cuda.max_memory_allocated()
    waited = sum(wait for _, wait in counted) / sum(seconds for seconds, _ in counted)
    return {"seconds": statistics.median(s for s, _ in counted), "wait": waited, "bytes": memory, "flops": flops}


def main() -> None:
    """Runs the variants in turn, or, with --variant, one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=128, help="of the LoRA variants (default 128)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shards", default="", help="shards with depth and normals; made from scenes if not given")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm", type=int, default=5, help="first steps that do not count (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of every variant, in turn (default 3)")
    parser.add_argument("--variants", nargs="+", choices=[*OURS, *OTHERS], default=[*OTHERS[:2], *OURS])
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(run_variant(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.shards:
            scenes = (render_scene(0, index, 256) for index in range(64))
            write_samples(scenes, ShardWriter(Path(folder), made_by="benchmark"))
            arguments.shards = f"{folder}/*.tar"
        report(arguments, _rounds(arguments))


def _rounds(arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in arguments.variants}
    for index in range(arguments.rounds):
        for variant in arguments.variants:
            print(f"round {index + 1} of {arguments.rounds}: {variant}", file=sys.stderr)
            command = [sys.executable, __file__, *sys.argv[1:], "--shards", arguments.shards, "--variant", variant]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"{variant} failed", file=sys.stderr)
                continue
            runs[variant].append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def report(arguments: argparse.Namespace, runs: dict[str, list[dict[str, float]]]) -> None:
    """A table; the ratio is of the same round's plain loop, of LoRA to LoRA."""
    device = torch.device(arguments.device)
    peak = peak_flops(device, "bfloat16" if arguments.device == "cuda" else "float32")
    print(f"{machine(device)}; {arguments.model}, {arguments.size} x {arguments.size}, batch {arguments.batch}")
    rows = []
    for variant, rounds in runs.items():
        if not rounds:
            continue
        rates = [arguments.batch / r["seconds"] for r in rounds]
        values = {"samples/s": statistics.median(rates), "GiB": max(r["bytes"] for r in rounds) / 2**30}
        values |= {"data wait": statistics.median(r["wait"] for r in rounds)}
        base = runs.get("plain LoRA" if "LoRA" in variant else "plain", [])
        if len(base) == len(rounds) and "cached" not in variant:
            faster = [b["seconds"] / r["seconds"] for b, r in zip(base, rounds, strict=True)]
            values["times plain"] = statistics.median(faster)
        if rounds[0]["flops"]:
            values["share of peak"] = statistics.median(rates) * rounds[0]["flops"] / peak
        rows.append((variant, values))
    print(format_table(rows, COLUMNS))


if __name__ == "__main__":
    main()
