"""The options that say which model answers and how it is held in memory, the same for every command that asks one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diception.inference import Pipeline

DTYPES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16"}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds them to a command."""
    parser.add_argument("--model", required=True, help="a model directory, or `tiny`")
    parser.add_argument(
        "--adapter",
        type=Path,
        nargs="+",
        default=[],
        help="of `diception adapt`; each answers the tasks it learned",
    )
    parser.add_argument(
        "--stack", type=float, nargs="+", metavar="WEIGHT", help="all adapters together for every task, so strong each"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of the model (default float32)")
    parser.add_argument(
        "--autoencoder",
        metavar="DIR",
        help="decode with another autoencoder of the same latents, such as the tiny one of Stable Diffusion 3",
    )
    parser.add_argument("--quantize", choices=("int8", "nf4"), help="the transformer's blocks in 8 or 4 bits")
    parser.add_argument("--offload", action="store_true", help="weights wait in main memory: less of the GPU's, slower")
    parser.add_argument("--compile", action="store_true", help="compile the blocks: slow at first, then faster")


def load_pipeline(arguments: argparse.Namespace) -> Pipeline:
    """The model that the options name."""
    import torch

    from diception.inference import Pipeline

    try:
        kind = torch.device(arguments.device).type
    except RuntimeError as error:
        raise ValueError(f"--device is {arguments.device!r}; allowed: cpu, cuda, cuda:0 and so on") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {arguments.device!r}, but torch finds no CUDA device here")
    weights, adapters = arguments.stack, arguments.adapter
    if weights is not None and len(weights) != len(adapters):
        raise ValueError(f"--stack has {len(weights)} weights, but --adapter names {len(adapters)}; give one for each")
    pipeline = Pipeline.from_pretrained(
        arguments.model,
        device=arguments.device,
        dtype=getattr(torch, DTYPES[arguments.dtype]),
        adapter=adapters,
        decoder=arguments.autoencoder,
        quantize=arguments.quantize,
        offload=arguments.offload,
        compile_blocks=arguments.compile,
    )
    if weights is not None:
        pipeline.stack(dict(zip(pipeline.adapters.infos, weights, strict=True)))
    return pipeline
