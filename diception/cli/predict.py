"""`diception predict`: images in, annotations and pictures out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diception.inference import Pipeline
    from diception.tasks import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a model directory, or `tiny`")
    parser.add_argument("--task", required=True, help="a task of the model; several with commas, or `all`")
    parser.add_argument("--image", required=True, nargs="+", type=Path, help="image files")
    parser.add_argument("--points", help='1 to 5 points "y,x;y,x" in [0, 1], for tasks prompted by points')
    parser.add_argument("--category", help="what to look for, for tasks prompted by category")
    parser.add_argument("--adapter", type=Path, help="an adapter made by `diception adapt`")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own; 28 as released)")
    parser.add_argument("--guidance-scale", type=float, help="guidance runs above 1 (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="fixes the noise (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from diception.datasets.images import read_image
    from diception.inference import Pipeline, Prediction

    if arguments.steps is not None and arguments.steps < 1:
        raise ValueError(f"--steps is {arguments.steps}; it must be at least 1")
    points = parse_points(arguments.points) if arguments.points else None
    images = [read_image(path) for path in arguments.image]
    stems = [path.stem for path in arguments.image]
    if repeated := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"several images are named {repeated[0]!r}; their results would replace each other")
    pipeline = Pipeline.from_pretrained(arguments.model, device=arguments.device, adapter=arguments.adapter)
    names = _tasks(pipeline, arguments)
    asked = {name: _asked(pipeline.get_task(name), points, arguments.category) for name in names}
    for name in names:
        pipeline.check(name, *asked[name])
    bar = tqdm(total=len(names) * len(images), unit="prediction")
    for name in names:
        for path, image in zip(arguments.image, images, strict=True):
            prediction = pipeline(
                image,
                task=name,
                points=asked[name][0],
                category=asked[name][1],
                steps=arguments.steps,
                guidance_scale=arguments.guidance_scale,
                seed=arguments.seed,
            )
            assert isinstance(prediction, Prediction)
            prediction.save(arguments.out / f"{path.stem}.{name}")
            bar.update()
    bar.close()
    print(f"{len(names) * len(images)} predictions in {arguments.out}")


def parse_points(text: str) -> list[tuple[float, float]]:
    """`"y,x;y,x"`, the order of the released command, to (x, y) pairs."""
    try:
        pairs = [tuple(float(number) for number in pair.split(",")) for pair in text.split(";") if pair.strip()]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f'--points is {text!r}; expected "y,x;y,x" with numbers in [0, 1]')
    return [(pair[1], pair[0]) for pair in pairs]


def _asked(
    task: Task, points: list[tuple[float, float]] | None, category: str | None
) -> tuple[list[tuple[float, float]] | None, str | None]:
    """Of the points and the category given, those that the task takes."""
    return points if task.takes_points else None, category if task.takes_category else None


def _tasks(pipeline: Pipeline, arguments: argparse.Namespace) -> list[str]:
    """The tasks asked for; `all` leaves out those whose points or category were not given."""
    if arguments.task != "all":
        return arguments.task.split(",")
    return [
        task.name
        for task in pipeline.tasks.values()
        if (arguments.points or not task.takes_points) and (arguments.category or not task.takes_category)
    ]
