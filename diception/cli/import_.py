"""`diception import`: Stable Diffusion 3 and the released weights become a model directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from diception.cli.model_options import DTYPES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", required=True, type=Path, help="Stable Diffusion 3 in diffusers' layout")
    parser.add_argument("--release", required=True, type=Path, help="the released DICEPTION_v1.pth")
    parser.add_argument("--point-order", choices=["yx", "xy"], default="yx", help="of the weights (default yx)")
    parser.add_argument("--device", default="cpu", help="where the text encoders run, once (default cpu)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="of the text encoders")
    parser.add_argument("--out", required=True, type=Path, help="folder of the model directory; must not exist")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from diception.export import import_release

    dtype = getattr(torch, DTYPES[arguments.dtype])
    out = import_release(
        arguments.base, arguments.release, arguments.out, arguments.point_order, arguments.device, dtype
    )
    print(f"model: {out}")
