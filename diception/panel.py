"""Panels: image, target and prediction side by side, one row per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diception.config import SamplingConfig
from diception.datasets.sample import Example, collate
from diception.evaluation import HeldOut
from diception.inference import generate, to_uint8

if TYPE_CHECKING:
    from diception.codec import Worst
    from diception.model.diception import Diception
    from diception.tasks import Task

COLUMNS = ("image", "target", "painted by the model", "decoded")
TILE, GAP, HEADER, LABEL = 192, 6, 22, 20
BACKGROUND, INK, POINT = (250, 250, 248), (40, 40, 46), (230, 30, 60)


@dataclass
class Row:
    """One row of a panel: a title and (H, W, 3) uint8 tiles in the order of the columns."""

    title: str
    tiles: list[NDArray[np.uint8]]


def predict_rows(model: Diception, held_out: HeldOut, sampling: SamplingConfig, count: int, skip: int = 0) -> list[Row]:
    """Predicts `count` held-out samples of one task and lays each out as a row."""
    examples = list(islice(held_out, skip, skip + count))
    if not examples:
        return []
    painted = (generate(model, collate([example]).to(model.device), sampling)[0].cpu().numpy() for example in examples)
    return [
        make_row(held_out.task, example, rgb, example.target.prompt)
        for example, rgb in zip(examples, painted, strict=True)
    ]


def make_row(task: Task, example: Example, painted: NDArray, title: str) -> Row:
    """A sample and what a model has painted for it, (3, H, W) in [0, 1]."""
    image = to_uint8(example.image)
    tiles = [
        _with_points(image, example.target.points[example.target.point_mask]),
        task.visualize(example.target.truth, image),
        to_uint8(painted),
        task.visualize(task.decode(painted), image),
    ]
    return Row(title, tiles)


def worst_rows(token: str, worst: Sequence[Worst]) -> list[Row]:
    """The samples that survive an autoencoder worst, each a row with the value of its headline metric."""
    return [
        Row(
            f"{token}   {one.key}: {one.value:.3f}",
            [*map(to_uint8, (one.image, one.painted, one.returned)), one.truth, one.decoded],
        )
        for one in worst
    ]


def save_panel(rows: list[Row], path: Path, columns: tuple[str, ...] = COLUMNS) -> None:
    """Draws the rows under the column titles and writes a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_panel(rows, columns).save(path)


def draw_panel(rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Image.Image:
    """The panel as a picture: every tile at one size, titles above."""
    width = GAP + len(columns) * (TILE + GAP)
    height = HEADER + len(rows) * (LABEL + TILE + GAP) + GAP
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for index, column in enumerate(columns):
        pen.text((GAP + index * (TILE + GAP), 4), column, fill=INK, font=font)
    for number, row in enumerate(rows):
        top = HEADER + number * (LABEL + TILE + GAP)
        pen.text((GAP, top + 2), row.title, fill=INK, font=font)
        for index, tile in enumerate(row.tiles):
            picture = Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.BICUBIC)
            canvas.paste(picture, (GAP + index * (TILE + GAP), top + LABEL))
    return canvas


def _with_points(image: NDArray[np.uint8], points: NDArray) -> NDArray[np.uint8]:
    """The image with its point prompts (n, 2) in [0, 1] drawn as dots."""
    if not len(points):
        return image
    picture = Image.fromarray(image).resize((TILE, TILE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for x, y in points * TILE:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=POINT, outline="white", width=1)
    return np.asarray(picture)
