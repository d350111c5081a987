"""`diception predict`: images in, annotations and pictures out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diception.cli.answer_log import AnswerLog, check_names, plain, stamp
from diception.cli.model_options import add_model_options, load_pipeline

if TYPE_CHECKING:
    from diception.inference import Pipeline
    from diception.jobs import Job


TOLD = 8
"""Images that cannot be read and are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--task", help="a task of the model; several with commas, or `all`")
    asked.add_argument("--prompt", help="the same as a prompt: '[[image2depth]]', '[[image2semantic]] person'")
    asked.add_argument("--batch", type=Path, metavar="JSON", help="a list of jobs: input, caption, optional target")
    parser.add_argument("--image", nargs="+", type=Path, default=[], help="image files, with --task or --prompt")
    parser.add_argument("--points", help='1 to 5 points "y,x;y,x" in [0, 1], for tasks prompted by points')
    parser.add_argument("--category", help="what to look for, for tasks prompted by category")
    parser.add_argument(
        "--steps", "--num-inference-steps", type=int, help="denoising steps (default: the model's own; 28 as released)"
    )
    parser.add_argument("--guidance-scale", type=float, help="guidance runs above 1 (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="fixes the noise (default 0)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="the model's size, multiples of 16")
    parser.add_argument("--keep-aspect", action="store_true", help="work at the image's aspect, not squashed")
    parser.add_argument(
        "--tile",
        action=argparse.BooleanOptionalAction,
        help="work at the image's own size (or --size), in overlapping windows (default: as the adapter was trained)",
    )
    parser.add_argument(
        "--turns",
        action=argparse.BooleanOptionalAction,
        help="the mean of eight turned and mirrored views (default: as the adapter was trained)",
    )
    parser.add_argument("--batch-size", type=int, help="images at a time (default 1 on the CPU, 4 on a GPU)")
    parser.add_argument("--data-root", type=Path, default=Path(), help="folder that paths in the batch start from")
    parser.add_argument(
        "--go-through-all-seg-labels", action="store_true", help="in a batch: every region of a target, not one"
    )
    parser.add_argument("--save-npy", action="store_true", help="write the numbers as .npy beside the other files")
    parser.add_argument("--resume", action="store_true", help="leave out what --out already holds")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from diception.jobs import read_jobs

    _check(arguments)
    pipeline = load_pipeline(arguments)
    if arguments.batch:
        every = arguments.go_through_all_seg_labels
        jobs = read_jobs(arguments.batch, arguments.data_root, pipeline, arguments.seed, every)
    else:
        jobs = _jobs(pipeline, arguments)
    check_names([job.name for job in jobs])
    record = AnswerLog(arguments.out, _options(arguments))
    waiting = [job for job in jobs if not (arguments.resume and record.holds(job))]
    record.forget(waiting)
    broken: list[str] = []
    answers = pipeline.answer(
        [job.request for job in waiting],
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        size=tuple(arguments.size) if arguments.size else None,
        keep_aspect=arguments.keep_aspect,
        tile=arguments.tile,
        turns=arguments.turns,
        batch_size=arguments.batch_size,
        unreadable=lambda index, error: broken.append(f"{waiting[index].name}: {error}"),
    )
    for index, prediction in tqdm(answers, total=len(waiting), unit="prediction", delay=1):
        record.add(waiting[index], prediction.save(arguments.out / waiting[index].name, arguments.save_npy))
    made = len(waiting) - len(broken)
    print(f"{made} predictions in {arguments.out}" + f", {len(jobs) - len(waiting)} kept" * arguments.resume)
    if broken:
        told = "; ".join(broken[:TOLD]) + "; ..." * (len(broken) > TOLD)
        raise ValueError(f"{len(broken)} of {len(waiting)} images cannot be read: {told}")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an answer depends on beside its question."""
    names = ("model", "adapter", "stack", "autoencoder", "quantize", "dtype")
    names += ("steps", "guidance_scale", "size", "keep_aspect", "tile", "turns", "save_npy")
    files = [arguments.model, *(arguments.adapter or []), *([arguments.autoencoder] if arguments.autoencoder else [])]
    return {name: plain(getattr(arguments, name)) for name in names} | {"files": [stamp(Path(one)) for one in files]}


def parse_points(text: str) -> list[tuple[float, float]]:
    """`"y,x;y,x"`, the order of the released command, to (x, y) pairs."""
    try:
        pairs = [tuple(float(number) for number in pair.split(",")) for pair in text.split(";") if pair.strip()]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f'--points is {text!r}; expected "y,x;y,x" with numbers in [0, 1]')
    return [(pair[1], pair[0]) for pair in pairs]


def _check(arguments: argparse.Namespace) -> None:
    """Refuses, before a model is loaded, what contradicts itself or is not there."""
    if arguments.steps is not None and arguments.steps < 1:
        raise ValueError(f"--steps is {arguments.steps}; it must be at least 1")
    if arguments.size and arguments.keep_aspect:
        raise ValueError("--size and --keep-aspect are both given; choose one")
    if bool(arguments.batch) == bool(arguments.image):
        raise ValueError("give --image with --task or --prompt, and no --image with --batch")
    if arguments.batch and (arguments.points or arguments.category):
        raise ValueError("--points and --category are for --task and --prompt; a batch has its own")
    if arguments.go_through_all_seg_labels and not arguments.batch:
        raise ValueError("--go-through-all-seg-labels is for --batch")
    for path in arguments.image:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
    stems = [path.stem for path in arguments.image]
    if repeated := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"several images are named {repeated[0]!r}; their results would replace each other")


def _jobs(pipeline: Pipeline, arguments: argparse.Namespace) -> list[Job]:
    """Every task asked for on every image; points and category go to the tasks that take them."""
    from diception.inference import Request
    from diception.jobs import Job

    points = parse_points(arguments.points) if arguments.points else None
    jobs = []
    for name, category in _tasks(pipeline, arguments):
        task = pipeline.get_task(name)
        given = points if task.takes_points else None
        pipeline.check(name, given, category if task.takes_category else None, arguments.seed)
        for path in arguments.image:
            request = Request(path, name, given, category if task.takes_category else None, arguments.seed)
            jobs.append(Job(f"{path.stem}.{name}", request))
    return jobs


def _tasks(pipeline: Pipeline, arguments: argparse.Namespace) -> list[tuple[str, str | None]]:
    """Tasks asked for, with their category; `all` leaves out those whose points or category were not given."""
    if arguments.prompt:
        task, category = pipeline.read_prompt(arguments.prompt)
        if category and arguments.category:
            raise ValueError(f"--prompt names the category {category!r}, --category {arguments.category!r}; give one")
        return [(task.name, category or arguments.category)]
    if arguments.task != "all":
        names = [pipeline.get_task(name).name for name in arguments.task.split(",")]
        return [(name, arguments.category) for name in dict.fromkeys(names)]
    return [
        (task.name, arguments.category)
        for task in pipeline.tasks.values()
        if (arguments.points or not task.takes_points) and (arguments.category or not task.takes_category)
    ]
