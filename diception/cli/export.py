"""`diception export`: a run becomes a model directory that stands alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from diception.cli.model_options import DTYPES


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
    parser.add_argument(
        "--best", action="store_true", default=None, help="the run's weights with the lowest validation loss"
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="of the directory's weights (default float32)")
    parser.add_argument(
        "--autoencoder-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the directory's autoencoder (default: as it is)",
    )
    parser.add_argument("--steps", type=int, help="denoising steps that serve the model best (default: as it says)")
    parser.add_argument("--guidance-scale", type=float, help="the same for guidance")
    parser.add_argument("--about", help="what the model is for, a paragraph of its card")
    parser.add_argument("--scores", type=Path, nargs="+", help="reports of `evaluate --out`, tables of its card")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder, or file with `--format release`; must not exist"
    )


def run(arguments: argparse.Namespace) -> None:
    from diception.export import export_release

    weights = arguments.merge_weight or [1.0] * len(arguments.merge_adapter)
    if len(weights) != len(arguments.merge_adapter):
        raise ValueError(f"{len(weights)} of --merge-weight for {len(arguments.merge_adapter)} of --merge-adapter")
    adapters: dict[str | Path, float] | None = dict(zip(arguments.merge_adapter, weights, strict=True)) or None
    if arguments.format == "release":
        for name in ("best", "dtype", "autoencoder_dtype", "steps", "guidance_scale", "about", "scores"):
            if getattr(arguments, name) is not None:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} goes with --format directory; export that folder again as a release")
        export_release(arguments.run, arguments.out, adapters)
        print("the file says neither the order of points nor the encodings; they are in the model's diception.json")
    else:
        _directory(arguments, adapters)
    print(f"model: {arguments.out}")


def _directory(arguments: argparse.Namespace, adapters: Mapping[str | Path, float] | None) -> None:
    import torch

    from diception.card import Measured
    from diception.export import export_directory

    given = arguments.autoencoder_dtype
    export_directory(
        arguments.run,
        arguments.out,
        adapters,
        getattr(torch, DTYPES[arguments.dtype or "float32"]),
        bool(arguments.best),
        getattr(torch, given) if given else None,
        arguments.steps,
        arguments.guidance_scale,
        arguments.about or "",
        [Measured.read(path) for path in arguments.scores or []],
    )
