"""`diception codec-check`: the ceiling that an autoencoder and an encoding set."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

WORST = 3
"""Rows of a task in the panel."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", help="names with commas; by default every registered task that the data serves")
    parser.add_argument("--shards", help="held-out shards; by default synthetic scenes are rendered")
    parser.add_argument("--domain", type=int, default=1, help="domain of the rendered scenes (default 1)")
    parser.add_argument("--autoencoder", default="tiny", help="an autoencoder's folder (default: the tiny model's)")
    parser.add_argument("--encoding", help="how the task is painted (default: the task's own first choice)")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="deviation of the noise on the decoded picture, in [0, 1]"
    )
    parser.add_argument(
        "--noise-kind", choices=("white", "grid"), default="white", help="by pixel, or by latent cell and interpolated"
    )
    parser.add_argument("--count", type=int, default=200, help="samples per task (default 200)")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    parser.add_argument("--panel", type=Path, help="draw the worst samples of every task into this PNG")


def run(arguments: argparse.Namespace) -> None:
    from functools import partial

    from tqdm import tqdm

    from diception.codec import Disturbance, codec_ceilings
    from diception.datasets.shards import ShardReader
    from diception.datasets.synthetic import held_out_scenes
    from diception.evaluation import HeldOut
    from diception.model.autoencoder import load_autoencoder
    from diception.panel import save_panel, worst_rows
    from diception.tables import format_table, write_report
    from diception.tasks import get_task, known_tasks

    tasks = [get_task(name) for name in arguments.task.split(",")] if arguments.task else known_tasks()
    if arguments.encoding:
        asked = tasks if arguments.task else [task for task in tasks if arguments.encoding in task.encodings]
        if not asked:
            raise ValueError(f"no task has the encoding {arguments.encoding!r}")
        tasks = [replace(task, encoding=arguments.encoding) for task in asked]
    disturbance = Disturbance(arguments.noise, arguments.noise_kind)
    autoencoder = load_autoencoder(arguments.autoencoder)
    if arguments.size % autoencoder.factor or arguments.size < autoencoder.factor or arguments.count < 1:
        raise ValueError(
            f"--size is {arguments.size} and --count {arguments.count}; a positive multiple of {autoencoder.factor} "
            "and at least 1 are allowed"
        )
    bar = partial(tqdm, desc="render", unit="scene", leave=False)
    reader = (
        ShardReader(arguments.shards)
        if arguments.shards
        else held_out_scenes(arguments.count, arguments.size, arguments.domain, bar, "shadow")
    )
    report, rows = {}, []
    for task in tasks:
        held_out = HeldOut(task, reader, arguments.count, arguments.size)
        if not len(held_out):
            continue
        examples = tqdm(held_out, total=len(held_out), desc=task.name, unit="sample", leave=False)
        ceilings = codec_ceilings(autoencoder, task, examples, [disturbance], WORST * bool(arguments.panel))
        report[task.name] = {"encoding": task.encoding, "noise": str(disturbance)} | {
            ceiling.protocol: ceiling.metrics for ceiling in ceilings
        }
        rows += worst_rows(task.token, ceilings[0].worst)
        for ceiling in ceilings:
            columns = sorted(ceiling.metrics, key=lambda column: not column.startswith("psnr"))
            print(f"{task.name}, {task.encoding}  [{ceiling.protocol}; {ceiling.count} samples; {disturbance}]")
            print(format_table([("ceiling", ceiling.metrics)], columns), end="\n\n")
    if not report:
        raise ValueError(f"the data serves none of the tasks {', '.join(task.name for task in tasks)}")
    if arguments.out:
        write_report(arguments.out, report)
    if arguments.panel:
        save_panel(rows, arguments.panel, ("image", "painted", "behind the autoencoder", "annotation", "read back"))
