"""`diception export`: a run becomes a model directory that stands alone."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run folder of `diception train`, a model directory, or `tiny`")
    parser.add_argument(
        "--format",
        choices=["directory", "release"],
        default="directory",
        help="a model directory (default), or the released code's .pth",
    )
    parser.add_argument(
        "--merge-adapter", type=Path, nargs="+", default=[], help="fold these adapters into the weights"
    )
    parser.add_argument("--merge-weight", type=float, nargs="+", help="how strong each adapter is (default 1)")
    parser.add_argument("--best", action="store_true", help="the run's weights with the lowest validation loss")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the directory's weights"
    )
    parser.add_argument(
        "--autoencoder-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the directory's autoencoder (default: as it is)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder, or file with `--format release`; must not exist"
    )


def run(arguments: argparse.Namespace) -> None:
    import torch

    from diception.export import export_directory, export_release

    weights = arguments.merge_weight or [1.0] * len(arguments.merge_adapter)
    if len(weights) != len(arguments.merge_adapter):
        raise ValueError(f"{len(weights)} of --merge-weight for {len(arguments.merge_adapter)} of --merge-adapter")
    adapters = dict(zip(arguments.merge_adapter, weights, strict=True)) or None
    if arguments.format == "release":
        if arguments.best:
            raise ValueError("--best goes with --format directory; export that folder again as a release")
        export_release(arguments.run, arguments.out, adapters)
        print("the file says neither the order of points nor the encodings; they are in the model's diception.json")
    else:
        dtype, given = getattr(torch, arguments.dtype), arguments.autoencoder_dtype
        autoencoder_dtype = getattr(torch, given) if given else None
        export_directory(arguments.run, arguments.out, adapters, dtype, arguments.best, autoencoder_dtype)
    print(f"model: {arguments.out}")
