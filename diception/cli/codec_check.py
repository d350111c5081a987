"""`diception codec-check`: the ceiling that an autoencoder and an encoding set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", help="names with commas; by default every registered task that the data serves")
    parser.add_argument("--shards", help="held-out shards; by default synthetic scenes are rendered")
    parser.add_argument("--domain", type=int, default=1, help="domain of the rendered scenes (default 1)")
    parser.add_argument("--autoencoder", default="tiny", help="an autoencoder's folder (default: the tiny model's)")
    parser.add_argument("--noise", type=float, default=0.0, help="deviation of the noise added to the latents")
    parser.add_argument("--count", type=int, default=200, help="samples per task (default 200)")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    parser.add_argument("--out", type=Path, help="write the report as JSON")


def run(arguments: argparse.Namespace) -> None:
    from functools import partial

    from tqdm import tqdm

    from diception.datasets.shards import ShardReader
    from diception.datasets.synthetic import held_out_scenes
    from diception.evaluation import HeldOut, codec_ceiling
    from diception.model.autoencoder import load_autoencoder
    from diception.tables import format_table
    from diception.tasks import get_task, known_tasks

    tasks = [get_task(name) for name in arguments.task.split(",")] if arguments.task else known_tasks()
    autoencoder = load_autoencoder(arguments.autoencoder)
    bar = partial(tqdm, desc="render", unit="scene", leave=False)
    reader = (
        ShardReader(arguments.shards)
        if arguments.shards
        else held_out_scenes(arguments.count, arguments.size, arguments.domain, bar)
    )
    report = {}
    for task in tqdm(tasks, unit="task"):
        held_out = HeldOut(task, reader, arguments.count, arguments.size)
        if len(held_out):
            report[task.name] = codec_ceiling(autoencoder, held_out, arguments.noise)
    if not report:
        raise ValueError(f"the data serves none of the tasks {', '.join(task.name for task in tasks)}")
    for name, metrics in report.items():
        columns = sorted(metrics, key=lambda column: not column.startswith("psnr"))
        print(format_table([(f"{name:<24}", metrics)], columns), end="\n\n")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
