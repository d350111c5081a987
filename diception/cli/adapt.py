"""`diception adapt`: a new task from a folder of images and a folder of targets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from diception.cli.keys_option import add_keys_option

if TYPE_CHECKING:
    from diception.training.few_shot import FewShotReport

PRESETS = ("8gb", "12gb", "24gb", "80gb")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_keys_option(parser)
    parser.add_argument("--model", help="a model directory, or `tiny` (default)")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--targets", required=True, help="folder of targets, with the names of their images")
    parser.add_argument("--kind", help="mask (default), labels, instances, depth, normal, pose or image")
    parser.add_argument("--target-suffix", help="what a target's name has more than its image's: _mask")
    parser.add_argument("--invert", action="store_true", default=None, help="masks mark what is 0")
    parser.add_argument("--depth-scale", type=float, help="metres of one step of a 16-bit depth picture (default .001)")
    parser.add_argument("--names", help="file with the names of a label map's values, one a line, the background first")
    parser.add_argument("--name", required=True, help="name of the new task: lower-case letters, digits, _")
    parser.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--held-out", type=int, help="images kept for measuring (default: a third)")
    parser.add_argument("--val-images", help="folder of images to measure on, in place of a share of --images")
    parser.add_argument("--val-targets", help="folder of their targets")
    parser.add_argument("--tile", action="store_true", default=None, help="learn and predict in windows at own scale")
    parser.add_argument(
        "--zoom", type=float, help="with --tile: enlarge images so many times first, for fine structures"
    )
    parser.add_argument(
        "--turns", action="store_true", default=None, help="no up and down: learn turned, paint the mean of 8 views"
    )
    parser.add_argument("--cached", type=int, metavar="N", help="encode N changed versions of each image once")
    parser.add_argument("--one-step", action="store_true", default=None, help="learn to answer in one step, from zeros")
    parser.add_argument("--patience", type=int, metavar="N", help="stop after N measurements without a better one")
    parser.add_argument(
        "--learning-curve", type=int, nargs="+", metavar="N", help="also learn from so many images: 8 16 32"
    )
    parser.add_argument("--forgetting", type=int, metavar="N", help="measure the model's own tasks on N samples each")
    parser.add_argument("--out", help="folder for adapter, report and panel (default: runs/<name>)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--config", default="few_shot", help="a yaml file or shipped config (default few_shot)")
    chosen.add_argument("--preset", choices=PRESETS, help="Stable Diffusion 3 on a GPU of so much memory")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further options: lr=1e-3 adapter.rank=8")


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import replace
    from functools import partial

    from tqdm import tqdm

    from diception.config import FewShotConfig, load_config
    from diception.training.few_shot import Adaptation

    names = ("model", "images", "targets", "kind", "name", "held_out", "val_images", "val_targets", "out", "steps")
    names += ("tile", "target_suffix", "invert", "depth_scale", "names", "cached", "one_step", "patience")
    names += ("learning_curve", "forgetting", "zoom", "turns")
    given = {name: getattr(arguments, name) for name in names}
    chosen = f"presets/{arguments.preset}" if arguments.preset else arguments.config
    config = load_config(chosen, arguments.overrides, FewShotConfig)
    config = replace(config, **{key: value for key, value in given.items() if value is not None})
    adaptation = Adaptation(config, partial(tqdm, leave=False))
    decide = f"{len(adaptation.stopping)} to decide when to stop, " if adaptation.stopping is not None else ""
    counts = f"{len(adaptation.pairs)} to train on, {decide}{len(adaptation.held_images)} to measure on"
    print(adaptation.pairs.table(), counts, sep="\n")
    report = adaptation.run()
    if report is None:
        print("stopped by a signal; the same command goes on")
    else:
        _tell(report)


def _tell(report: FewShotReport) -> None:
    from pathlib import Path

    from diception.tables import format_table

    before, after = report.before, report.after
    print(f"{report.adapter}: {report.share:.2%} of the transformer's parameters, {report.steps} steps")
    print(f"{report.images} images trained on, {after.count} held out, {after.primary} under {after.protocol}:")
    rows = [("before", before.metrics), ("after", after.metrics)]
    rows += [(f"baseline: {name}", metrics) for name, metrics in after.baselines.items()]
    print(format_table(rows, list(after.metrics)))
    for point in report.learning_curve:
        print(f"{point['images']} images: {point['metric']} {point['value']:.3f}")
    for one in report.forgetting:
        off = "" if one.off is None else f", off {one.off:.3f} ({'the same' if one.bit_equal else 'OTHER'} bits)"
        print(f"{one.task} {one.metric}: {one.before:.3f}, adapted {one.adapted:.3f}{off}")
    seconds = ", ".join(f"{part} {value:.0f} s" for part, value in report.seconds.items())
    memory = ", ".join(f"{part} {value:.2f} GB" for part, value in report.memory_gb.items())
    print(f"{seconds}; memory: {memory}; report: {Path(report.adapter).parent / 'report.html'}")
