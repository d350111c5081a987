"""Jobs: the released code's batch JSON, a list of images and prompts, as questions with names for their results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diception.datasets.images import image_size
from diception.datasets.sources.coco import decode_segmentation
from diception.inference import Pipeline, Request
from diception.tasks.base import MAX_POINTS
from diception.tasks.point_segmentation import draw_points


@dataclass(frozen=True)
class Job:
    """A question, and the stem of the files that its answer is written to."""

    name: str
    request: Request


def read_jobs(path: Path, root: Path, pipeline: Pipeline, seed: int = 0, every_region: bool = False) -> list[Job]:
    """Reads `[{"input": IMAGE, "caption": PROMPT, "target": {"path": FILE}}, ...]`.

    The target is needed only where the prompt lacks something: of an SA-1B file or a list of COCO annotations a region
    is chosen, by the seed and the entry's place; five points inside it prompt a task that takes points, its `prompt`
    names the category of a task that takes one. Beside the released keys `points` ([[y, x], ...] in [0, 1]) is read.

    Args:
        path: the JSON file.
        root: folder that the paths in it start from.
        pipeline: says which tasks there are.
        seed: chooses regions and points, and fixes the noise.
        every_region: one job for every region of a target, not for one of them.

    Raises:
        ValueError: not such a file, or an entry, named by its place, that cannot be asked.
    """
    entries = _read(path)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds no list of jobs")
    found: list[tuple[str, Request]] = []
    for index, entry in enumerate(entries):
        try:
            found += _requests(entry, root, pipeline, np.random.default_rng((seed, index)), seed, every_region)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}: job {index}: {reason}") from error
    counts, seen, jobs = Counter(name for name, _ in found), Counter(), []
    for name, request in found:
        jobs.append(Job(name if counts[name] == 1 else f"{name}-{seen[name]}", request))
        seen[name] += 1
    return jobs


def _requests(
    entry: Any, root: Path, pipeline: Pipeline, generator: np.random.Generator, seed: int, every_region: bool
) -> Iterator[tuple[str, Request]]:
    if not isinstance(entry, dict):
        raise ValueError(f"is a {type(entry).__name__}, expected an object with input and caption")
    for key in ("input", "caption"):
        if not isinstance(entry[key], str):
            raise ValueError(f"{key} is {entry[key]!r}, expected a text")
    image = root / entry["input"]
    if not image.is_file():
        raise ValueError(f"no image {image}")
    task, category = pipeline.read_prompt(entry["caption"])
    name = f"{image.stem}.{task.name}"
    given = [(float(x), float(y)) for y, x in entry["points"]] if "points" in entry else None
    if not (task.takes_points and given is None or task.takes_category and category is None):
        pipeline.check(task.name, given, category, seed)
        yield name, Request(image, task.name, given, category, seed)
        return
    regions = _regions(entry, root)
    order = range(len(regions)) if every_region else generator.permutation(len(regions))
    size, asked = image_size(image), 0
    for region in (regions[index] for index in order):
        points = _points(region, size, generator) if task.takes_points else None
        if points == []:
            continue  # too small to hold a pixel
        category = region["prompt"] if task.takes_category else None
        pipeline.check(task.name, points, category, seed)
        yield name, Request(image, task.name, points, category, seed)
        asked += 1
        if not every_region:
            return
    if not asked:
        raise ValueError("all regions of the target are empty")


def _regions(entry: dict[str, Any], root: Path) -> Sequence[dict[str, Any]]:
    """Annotations of the target: an SA-1B file, or a list of COCO annotations."""
    if not isinstance(entry.get("target"), dict):
        raise ValueError("needs points or a category, or a target to take them from")
    path = root / entry["target"]["path"]
    content = _read(path)
    regions = content["annotations"] if isinstance(content, dict) else content
    if not isinstance(regions, list) or not regions:
        raise ValueError(f"{path} has no annotations")
    return regions


def _points(region: dict[str, Any], size: tuple[int, int], generator: np.random.Generator) -> list[tuple[float, float]]:
    """Five points (x, y) inside a region of an image (H, W); none where the region is empty."""
    mask = decode_segmentation(region["segmentation"], size)
    if not mask.any():
        return []
    return [(float(x), float(y)) for x, y in draw_points(mask, MAX_POINTS, generator)]


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
