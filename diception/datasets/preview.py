"""A picture of what shards hold: random samples of each kind of annotation, as the tasks show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diception.annotations import KINDS
from diception.datasets.cache import ShardCache
from diception.datasets.images import DECODE_ERRORS
from diception.datasets.measures import MEASURES
from diception.datasets.sample import Sample
from diception.datasets.shards import ShardReader
from diception.tasks import TASK_TYPES, Task, known_tasks

TILE, GAP, TITLE, LABEL, ACROSS = 240, 10, 40, 24, 4
BACKGROUND, INK, FAINT, POINT = (250, 250, 248), (40, 40, 46), (120, 120, 128), (230, 30, 60)
TRIES = 5
"""So many times the wanted samples are looked at, where some are broken or show nothing."""
Tile = tuple[str, Image.Image]
"""A label and the picture above it."""


def tasks_of(kind: str) -> list[Task]:
    """The tasks that learn from a kind of annotation; where none is registered, one of its type."""
    known = [task for task in known_tasks() if task.kind == kind]
    types = [one for one in TASK_TYPES.values() if one.kind == kind]
    return known or [one(name=one.type_name, token=f"[[image2{one.type_name}]]") for one in types[:1]]


def tiles(sample: Sample, kind: str, generator: np.random.Generator) -> list[Tile]:
    """The image and what each task makes of its annotation, each with its label; without what cannot serve a task."""
    annotation = sample.annotations[kind]
    found = [(f"{sample.key}  {sample.size[1]} x {sample.size[0]}", _fit(sample.image))]
    for task in tasks_of(kind):
        if not task.serves(annotation):
            continue
        target = task.encode(annotation, generator)
        picture = task.visualize(target.truth, sample.image)
        found.append((target.prompt, _with_points(picture, target.points[target.point_mask])))
    return found


def _with_points(picture: NDArray[np.uint8], points: NDArray[np.float32]) -> Image.Image:
    canvas = _fit(picture)
    pen = ImageDraw.Draw(canvas)
    for x, y in points * canvas.size:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=POINT, outline="white", width=1)
    return canvas


def _lines(samples: Sequence[Sequence[Tile]]) -> list[list[Tile]]:
    """Tiles of samples in lines of ACROSS at most; those of one sample stay together."""
    lines: list[list[Tile]] = [[]]
    for tiles_of_one in samples:
        if lines[-1] and len(lines[-1]) + len(tiles_of_one) > ACROSS:
            lines.append([])
        lines[-1].extend(tiles_of_one)
    return lines


def draw(kinds: Sequence[tuple[str, Sequence[Sequence[Tile]]]]) -> Image.Image:
    """One part for each kind under its name, in which every sample is an image and what the tasks make of it."""
    parts = [(title, _lines(samples)) for title, samples in kinds]
    across = max((len(line) for _, lines in parts for line in lines), default=1)
    height = GAP + sum(TITLE + sum(_height(line) for line in lines) for _, lines in parts)
    canvas = Image.new("RGB", (GAP + across * (TILE + GAP), height), BACKGROUND)
    pen, large, small = ImageDraw.Draw(canvas), ImageFont.load_default(20), ImageFont.load_default(12)
    top = GAP
    for title, lines in parts:
        pen.text((GAP, top + 4), title, fill=INK, font=large)
        top += TITLE
        for line in lines:
            for column, (label, picture) in enumerate(line):
                left = GAP + column * (TILE + GAP)
                canvas.paste(picture, (left, top))
                pen.text((left, top + picture.height + 3), _shorten(label, small), fill=FAINT, font=small)
            top += _height(line)
    return canvas


def _height(line: Sequence[Tile]) -> int:
    return max(picture.height for _, picture in line) + LABEL + GAP


def _fit(picture: NDArray[np.uint8]) -> Image.Image:
    scale = TILE / max(picture.shape[:2])
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    return Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while font.getlength(text) > TILE and len(text) > 4:
        text = text[:-4] + "..."
    return text


def save_preview(
    shards: Sequence[str], path: Path, count: int = 4, seed: int = 0, cache: ShardCache | None = None
) -> list[str]:
    """Draws `count` random samples of each kind of annotation into a PNG; returns the kinds that it shows."""
    if count < 1:
        raise ValueError(f"a panel of {count} samples is not possible, at least 1 is needed")
    reader, generator = ShardReader(shards, cache), np.random.default_rng(seed)
    shown = []
    for kind in KINDS:
        rows: list[list[Tile]] = []
        for number in generator.permutation(reader.serving(kind))[: TRIES * count].tolist():
            try:
                row = tiles(reader.read(number, (kind,)), kind, generator)
            except DECODE_ERRORS:
                # Told by `check`; a task may also refuse what it cannot paint.
                continue
            if len(row) > 1:
                rows.append(row)
            if len(rows) == count:
                break
        if rows:
            shown.append((f"{kind}: {MEASURES[kind][0]}, {len(reader.serving(kind))} samples", rows))
    if not shown:
        raise ValueError(f"no sample of {', '.join(map(str, shards))} can be shown")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(shown).save(path)
    return [title.split(":")[0] for title, _ in shown]
