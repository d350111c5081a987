"""`diception adapt`: a new task from a folder of images and a folder of targets."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a model directory, or `tiny` (default)")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--targets", required=True, help="folder of targets, with the names of their images")
    parser.add_argument("--kind", help="mask (default), labels, depth, normal, pose or image")
    parser.add_argument("--name", required=True, help="name of the new task: lower-case letters, digits, _")
    parser.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--held-out", type=int, help="images kept for measuring (default: a third)")
    parser.add_argument("--out", help="folder for adapter, report and panel (default: runs/<name>)")
    parser.add_argument("--config", default="few_shot", help="a yaml file or shipped config (default few_shot)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further options: lr=1e-3 adapter.rank=8")


def run(arguments: argparse.Namespace) -> None:
    from functools import partial

    from tqdm import tqdm

    from diception.config import FewShotConfig, load_config
    from diception.tables import format_table
    from diception.training.few_shot import adapt

    given = {name: getattr(arguments, name) for name in ("model", "images", "targets", "kind", "name", "held_out")}
    given |= {"out": arguments.out, "steps": arguments.steps}
    config = load_config(arguments.config, arguments.overrides, FewShotConfig)
    for key, value in given.items():
        if value is not None:
            setattr(config, key, value)
    report = adapt(config, partial(tqdm, desc="measure", unit="image", leave=False))
    before, after = report.before, report.after
    print(f"adapter: {report.adapter}, {report.share:.2%} of the transformer's parameters")
    print(f"{report.images} images trained on, {after.count} held out, {after.primary} under {after.protocol}:")
    rows = [("before", before.metrics), ("after", after.metrics)]
    rows += [(f"baseline: {name}", metrics) for name, metrics in after.baselines.items()]
    print(format_table(rows, list(after.metrics)))
