"""`diception evaluate`: one table over all tasks, beside baselines that ignore the image."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diception.cli.model_options import add_model_options, load_pipeline

if TYPE_CHECKING:
    from diception.config import SamplingConfig
    from diception.datasets.mixture import Reader
    from diception.inference import Pipeline
    from diception.tasks import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument("--shards", help="held-out shards; by default synthetic scenes are rendered")
    parser.add_argument("--domain", type=int, default=1, help="domain of the rendered scenes (default 1)")
    parser.add_argument("--count", type=int, default=200, help="samples per task (default 200)")
    parser.add_argument("--tasks", help="names with commas; by default every task of the model that the data serves")
    parser.add_argument("--size", type=int, help="squash to this side in pixels (default: as the task was learned)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        help="numbers of denoising steps (default: the model's own; always 1 for what was learned with --one-step)",
    )
    parser.add_argument("--guidance-scale", type=float, help="guidance runs above 1 (default: the model's own)")
    parser.add_argument("--batch-size", type=int, default=16, help="samples at a time (default 16)")
    parser.add_argument(
        "--turns",
        action=argparse.BooleanOptionalAction,
        help="the mean of eight turned and mirrored views (default: as the adapter was trained)",
    )
    parser.add_argument("--seed", type=int, default=0, help="fixes points, categories and noise")
    parser.add_argument("--out", type=Path, help="write the report as JSON")


def run(arguments: argparse.Namespace) -> None:
    from functools import partial

    from tqdm import tqdm

    from diception.datasets.shards import ShardReader
    from diception.datasets.synthetic import held_out_scenes
    from diception.evaluation import evaluate_tasks
    from diception.inference.requests import check_size
    from diception.tables import format_scores, write_report

    least: list[int] = [*(arguments.steps or []), arguments.count, arguments.batch_size]
    if min(least) < 1:
        given = f"--steps {arguments.steps}, --count {arguments.count}, --batch-size {arguments.batch_size}"
        raise ValueError(f"{given}: all must be at least 1")
    pipeline = load_pipeline(arguments)
    names = arguments.tasks.split(",") if arguments.tasks else sorted(pipeline.tasks)
    tasks = [pipeline.get_task(name) for name in names]
    resolution = pipeline.model.settings.resolution
    if arguments.size is not None:
        check_size((arguments.size, arguments.size))
    bar = partial(tqdm, desc="render", unit="scene", leave=False)
    tile = None if arguments.size is None else False
    asked = {"guidance_scale": arguments.guidance_scale, "tile": tile, "turns": arguments.turns}
    ways = [pipeline.adapters.sampling(task, **asked) for task in tasks]
    samplings = [_samplings(way, arguments.steps) for way in ways]
    sides = [arguments.size or way.window or way.size or resolution for way in ways]
    reader = (
        ShardReader(arguments.shards)
        if arguments.shards
        else held_out_scenes(arguments.count, max(sides), arguments.domain, bar)
    )
    _check_prompts(pipeline, tasks, reader, sides, arguments.seed)
    scores = []
    for task, side, several in zip(tasks, sides, samplings, strict=True):
        pipeline.adapters.activate(pipeline.adapters.weights(task))
        options = {"count": arguments.count, "size": side, "seed": arguments.seed, "batch_size": arguments.batch_size}
        scores += evaluate_tasks(pipeline.model, [task], reader, several, **options)
    if not scores:
        raise ValueError(f"the data serves none of the tasks {', '.join(names)}")
    print(format_scores(scores))
    if arguments.out:
        report = {"model": arguments.model, "data": arguments.shards or f"synthetic domain {arguments.domain}"}
        write_report(arguments.out, report | {"scores": [score.as_dict() for score in scores]})


def _samplings(way: SamplingConfig, steps: Sequence[int] | None) -> list[SamplingConfig]:
    """How a task is sampled at so many steps each; one that was learned to answer in one has this one alone."""
    from dataclasses import replace

    return [way] if not steps or way.start == "zero" else [replace(way, steps=number) for number in steps]


def _check_prompts(pipeline: Pipeline, tasks: Sequence[Task], reader: Reader, sides: Sequence[int], seed: int) -> None:
    """Refuses a task whose first prompt the model cannot encode, before minutes are spent on those before it."""
    from diception.evaluation import HeldOut

    for task, side in zip(tasks, sides, strict=True):
        for example in HeldOut(task, reader, 1, side, seed):
            pipeline.model.bank.check([example.target.prompt])
