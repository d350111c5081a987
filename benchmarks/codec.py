"""The codec ceiling of every task and encoding on real data: the table of docs/codec.md.

    python benchmarks/codec.py --data DIR --autoencoder DIR/taesd3 --out docs/codec.json

The decoders were tuned on the even samples of every row; `--half held-out`, the default, reports the odd ones whose
photograph is in no other tuning half of the same task.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from algorithm2 import read_algorithm_2
from numpy.typing import NDArray
from PIL import Image
from real_data import (
    ball_normals,
    coco,
    derived_normals,
    panoptic,
    people,
    person_crops,
    segment_anything,
    seven_scenes,
    tartan_normals,
    with_kind,
)
from tqdm import tqdm

from diception.annotations import InstanceMasks
from diception.codec import CLEAN, Ceiling, Disturbance, codec_ceilings
from diception.datasets.sample import MemoryReader, Sample
from diception.evaluation import HeldOut
from diception.model.autoencoder import Autoencoder, load_autoencoder
from diception.tasks import task_from_dict
from diception.tasks.entity_segmentation import EntitySegmentation
from diception.tasks.semantic_segmentation import SemanticSegmentation

NOISES = (CLEAN, Disturbance(0.03), Disturbance(0.06), Disturbance(0.06, "grid"))
HALVES = ("held-out", "tuning", "all")
LEAST = 4
"""Samples that a row must have to say anything."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    data: str
    samples: Callable[[Path], Iterator[Sample]]
    folder: str
    kind: str
    task: str
    encodings: tuple[str, ...]
    metrics: tuple[str, ...]
    whole: bool = False
    """One frame only: there are no halves."""


PAPER = "random, Algorithm 2"
MASKS = ("palette", "position", "random", PAPER)
PROMPTED = ("palette", "random", PAPER)
DEPTHS = ("spectrum", "disparity", "log", "released")
ENTITY = ("ar@100", "ar_small", "ar_medium", "ar_large", "pq")
ROWS = (
    Row("7-Scenes", seven_scenes, "seven-scenes", "depth", "depth", DEPTHS, ("abs_rel",)),
    Row("derived", derived_normals, "normals", "normal", "normal", ("rgb",), ("mean", "median")),
    Row("TartanAir", tartan_normals, "normals", "normal", "normal", ("rgb",), ("mean", "median"), True),
    Row("DiLiGenT ball", ball_normals, "normals", "normal", "normal", ("rgb",), ("mean", "median"), True),
    Row("SA-1B", segment_anything, "sa1b", "instances", "point_segmentation", ("mask",), ("iou",), True),
    Row("COCO", coco, "coco-mini", "instances", "point_segmentation", ("mask",), ("iou",)),
    Row("COCO", coco, "coco-mini", "instances", "semantic_segmentation", PROMPTED, ("iou", "ap")),
    Row("COCO people", people, "coco-mini", "instances", "semantic_segmentation", PROMPTED, ("ap", "ap50")),
    Row("COCO panoptic", panoptic, "coco-panoptic", "instances", "entity_segmentation", MASKS, ENTITY),
    Row("COCO person crops", person_crops, "coco-mini", "pose", "pose", ("typed", "released"), ("ap",)),
    Row("COCO", coco, "coco-mini", "pose", "pose", ("typed", "released"), ("ap",)),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PaperEntity(EntitySegmentation):
    """Read by the paper's algorithm."""

    def decode(self, rgb: NDArray[np.float32]) -> InstanceMasks:
        return read_algorithm_2(rgb)


@dataclass(frozen=True, kw_only=True)
class PaperSemantic(SemanticSegmentation):
    """Read by the paper's algorithm."""

    def decode(self, rgb: NDArray[np.float32]) -> InstanceMasks:
        return read_algorithm_2(rgb)


PAPERS = {"entity_segmentation": PaperEntity, "semantic_segmentation": PaperSemantic}


def ceilings(row: Row, encoding: str, size: int, arguments: argparse.Namespace, vae: Autoencoder) -> list[Ceiling]:
    """The row's ceilings under all noises."""
    fields = {"name": row.task, "token": f"[[{row.task}]]", "encoding": encoding.split(",")[0]}
    task = PAPERS[row.task](**fields) if encoding == PAPER else task_from_dict({"type": row.task, **fields})
    chosen = half(row, arguments.half, arguments.data)[: arguments.count]
    reader = MemoryReader(chosen)
    examples = HeldOut(task, reader, len(chosen), size)
    bar = tqdm(examples, total=len(examples), desc=f"{row.task} {encoding} {size}", leave=False)
    found = codec_ceilings(vae, task, bar, NOISES, keep_worst=2 if arguments.pictures else 0, images=False)
    if arguments.pictures:
        for ceiling in found:
            _draw(ceiling, arguments.pictures / f"{row.data}-{row.task}-{encoding}-{size}-{ceiling.disturbance}.png")
    return found


def half(row: Row, name: str, data: Path) -> list[Sample]:
    """A part of a row's samples. No photograph of the held-out ones was seen in tuning the decoder of their task."""
    samples = read(row, data)
    if name == "all" or row.whole:
        return samples
    if name == "tuning":
        return samples[::2]
    rows = [one for one in ROWS if one.task == row.task and not one.whole]
    seen = {photograph(sample) for one in rows for sample in half(one, "tuning", data)}
    return [sample for sample in samples[1::2] if photograph(sample) not in seen]


@cache
def read(row: Row, data: Path) -> list[Sample]:
    """All samples of a row; sets are small."""
    return with_kind(row.samples(data / row.folder), row.kind)


def photograph(sample: Sample) -> str:
    """What a sample is cut from: `photograph.crop`."""
    return sample.key.partition(".")[0]


def _draw(ceiling: Ceiling, file: Path) -> None:
    rows = [
        np.concatenate([_picture(w.painted), _picture(w.returned), w.truth, w.decoded], axis=1) for w in ceiling.worst
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(Path(str(file).replace(" ", "-")))


def _picture(rgb: Any) -> Any:
    return np.rint(rgb.transpose(1, 2, 0) * 255).astype(np.uint8)


def main() -> None:
    """Measures, prints Markdown and writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with coco-mini, coco-panoptic and the others")
    parser.add_argument("--autoencoder", required=True, help="folder of an autoencoder of SD3's latents")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 768])
    parser.add_argument("--half", choices=HALVES, default="held-out")
    parser.add_argument("--count", type=int, default=12, help="samples of a set at most (default 12)")
    parser.add_argument("--only", help="tasks with commas")
    parser.add_argument("--encodings", help="with commas")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the worst samples")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    vae, report = load_autoencoder(arguments.autoencoder), []
    vae.vae.to(memory_format=torch.channels_last)  # 1.6 times as fast on a CPU
    tables: dict[str, list[str]] = {}
    for row, size in itertools.product(ROWS, arguments.sizes):
        if arguments.only and row.task not in arguments.only.split(","):
            continue
        if not row.whole and (left := len(half(row, arguments.half, arguments.data))) < LEAST:
            print(f"{row.task} on {row.data}: {left} samples are too few", file=sys.stderr)
            continue
        for encoding in row.encodings:
            if arguments.encodings and encoding not in arguments.encodings.split(","):
                continue
            found = ceilings(row, encoding, size, arguments, vae)
            for protocol, metric in itertools.product(dict.fromkeys(c.protocol for c in found), row.metrics):
                own = [ceiling for ceiling in found if ceiling.protocol == protocol]
                values = " | ".join(f"{ceiling.metrics[metric]:.4g}" for ceiling in own)
                name, data = f"{row.task}, {encoding}", f"{row.data} ({own[0].count})"
                tables.setdefault(protocol, []).append(f"| {name} | {data} | {metric} | {size} | {values} |")
            for ceiling in found:
                noise = str(ceiling.disturbance)
                entry = {"task": row.task, "encoding": encoding, "data": row.data, "size": size, "noise": noise}
                report.append(entry | {"protocol": ceiling.protocol, "count": ceiling.count, **ceiling.metrics})
    for protocol, lines in tables.items():  # numbers of two protocols never share a table
        print(f"`{protocol}`\n\n| task, encoding | data (samples) | metric | size | {' | '.join(map(str, NOISES))} |")
        print("\n".join(["|---|---|---|---|" + "---|" * len(NOISES), *lines]), end="\n\n")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
