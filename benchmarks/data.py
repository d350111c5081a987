"""Samples/s from shard bytes to a collated batch, beside a plain webdataset pipeline on the same shards.

python benchmarks/data.py --data DIR
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from real_data import coco, derived_normals, segment_anything, seven_scenes, with_kind
from torch.utils.data import DataLoader

from diception.annotations import KINDS, Annotation, DepthMap, InstanceMasks, Keypoints, NormalMap
from diception.datasets.mixture import PositionSampler, Source, Stream
from diception.datasets.sample import Batch, Example, Sample, collate_training
from diception.datasets.shards import ShardReader
from diception.datasets.transforms import Augment
from diception.datasets.writer import ShardWriter, write_samples
from diception.tasks import Task, get_task

STORED, BATCH = 32, 4
STAGES = ("read bytes", "decode image", "decode annotation", "resize", "encode", "collate")
SETS: dict[str, tuple[str, str, Callable[[Path], Iterator[Sample]]]] = {
    "7-Scenes": ("depth", "seven-scenes", seven_scenes),
    "derived normals": ("normal", "normals", derived_normals),
    "COCO": ("instances", "coco-mini", coco),
    "COCO people": ("pose", "coco-mini", coco),
    "SA-1B": ("instances", "sa1b", segment_anything),
}
ROWS = (
    ("depth", "7-Scenes"),
    ("normal", "derived normals"),
    ("point_segmentation", "COCO"),
    ("semantic_segmentation", "COCO"),
    ("entity_segmentation", "COCO"),
    ("pose", "COCO people"),
    ("point_segmentation", "SA-1B"),
    ("entity_segmentation", "SA-1B"),
)


def make_shards(data: Path, folder: Path) -> None:
    """Every set as four shards of `STORED` samples in all, repeated where the set is small."""
    for name, (kind, where, samples) in SETS.items():
        found = with_kind(samples(data / where), kind)[:STORED]
        repeated = (
            Sample(f"{i:04d}", sample.image, sample.annotations)
            for i, sample in zip(range(STORED), itertools.cycle(found), strict=False)
        )
        write_samples(repeated, ShardWriter(folder / name.replace(" ", "_"), STORED // 4))


def shards_of(folder: Path, name: str) -> list[str]:
    return [str(path) for path in sorted((folder / name.replace(" ", "_")).glob("*.tar"))]


def ours(shards: list[str], task: Task, size: int, workers: int) -> Iterable[Batch]:
    """The stream as training reads it."""
    source = Source("a", ShardReader(shards), 1.0, {task.name: 1.0})
    stream = Stream(sources=[source], tasks={task.name: task}, size=size, seed=0)
    sampler = PositionSampler(BATCH, 0, 1 << 30)
    return DataLoader(stream, batch_sampler=sampler, collate_fn=collate_training, num_workers=workers)


def plain_annotation(kind: str, data: bytes, size: int) -> Annotation:
    """Decoded and resized as a tutorial does it: everything at full size, one Pillow resize for each plane."""

    def nearest(plane: NDArray[Any]) -> NDArray[Any]:
        return np.array(Image.fromarray(plane).resize((size, size), Image.Resampling.NEAREST))

    if kind == "depth":
        return DepthMap(nearest(np.load(io.BytesIO(data)).astype(np.float32)))
    if kind == "normal":
        stored = nearest(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).astype(np.float32)
        return NormalMap(np.where(stored.any(axis=2), stored.transpose(2, 0, 1) / 127.5 - 1, 0).astype(np.float32))
    content = json.loads(data)
    height, width = content["size"]
    if kind == "pose":
        people = np.array(content["people"], np.float32) * np.array([size / width, size / height, 1], np.float32)
        return Keypoints(people, (size, size), np.array(content["areas"], np.float32))
    one = [{"size": [height, width], "counts": entry["rle"].encode()} for entry in content["instances"]]
    masks = np.stack([nearest(coco_mask.decode(rle)) for rle in one]).astype(bool)  # type: ignore[arg-type]
    kept = np.flatnonzero(masks.any(axis=(1, 2)))
    return InstanceMasks(masks[kept], tuple(content["instances"][i]["category"] for i in kept))


class Plain:
    """One stored sample to tensors; the target is painted by the same task."""

    def __init__(self, task: Task, size: int) -> None:
        self.task, self.size = task, size

    def __call__(self, stored: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        picture = Image.open(io.BytesIO(stored["jpg"])).convert("RGB")
        picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        annotation = plain_annotation(self.task.kind, stored[KINDS[self.task.kind].suffix], self.size)
        target = self.task.encode(annotation, np.random.default_rng(0))
        return image, torch.from_numpy(target.rgb), torch.from_numpy(target.valid)


def plain(shards: list[str], task: Task, size: int, workers: int) -> Iterable[Any]:
    """webdataset as its documentation shows it."""
    data = webdataset.WebDataset(shards, shardshuffle=False).repeat().map(Plain(task, size))  # type: ignore[attr-defined]
    return DataLoader(data, batch_size=BATCH, num_workers=workers)


def samples_per_s(batches: Iterable[Any], seconds: float) -> float:
    """After two batches, so that the start of the processes does not count."""
    running = iter(batches)
    for _ in range(2):
        next(running)
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        next(running)
        count += BATCH
    return count / spent


def stage_shares(shards: list[str], task: Task, size: int) -> list[float]:
    """Share of the time of each of STAGES in one process, over all stored samples."""
    reader, spent = ShardReader(shards), np.zeros(len(STAGES))
    examples, augment, suffix = [], Augment(), KINDS[task.kind].suffix
    for number in range(len(reader)):
        times = [time.perf_counter()]
        shard, row = reader.locate(number)
        for member in ("jpg", suffix):
            reader.read_member(shard, row, member)
        times.append(time.perf_counter())
        sample = reader.read_reduced(number, (), augment.at_least(size))
        times.append(time.perf_counter())
        sample.annotations[task.kind] = reader.read_annotation(shard, row, task.kind)
        times.append(time.perf_counter())
        sample = augment(sample, size, np.random.default_rng(0))
        annotation = sample.annotations[task.kind]
        annotation.to_array()  # paints what is painted when it is asked for
        image = np.ascontiguousarray(sample.image.transpose(2, 0, 1)).astype(np.float32)
        image /= 255
        times.append(time.perf_counter())
        target = task.encode(annotation, np.random.default_rng(0))
        times.append(time.perf_counter())
        spent[:-1] += np.diff(times)
        examples.append(Example(image, target, task.name, sample.key, 0))
        if len(examples) == BATCH:
            collate_training(examples)
            spent[-1] += time.perf_counter() - times[-1]
            examples = []
    return (spent / spent.sum()).tolist()


def main() -> None:
    """Writes shards into a temporary folder, runs both in turn, prints Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with coco-mini, seven-scenes and the others")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 768])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs")
    parser.add_argument("--seconds", type=float, default=3, help="of one run")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(arguments.data, folder)
        ratios = [f"times plain, {n} worker{'s' * (n > 1)}" for n in arguments.workers]
        print("| task | data | size | " + " | ".join([*ratios, *STAGES]) + " |")
        print("|---|---|---|" + "---|" * (len(ratios) + len(STAGES)), flush=True)
        for size, (task_name, data) in itertools.product(arguments.sizes, ROWS):
            task, shards = get_task(task_name), shards_of(folder, data)
            cells = []
            for workers in arguments.workers:
                found = []
                for number in range(arguments.rounds):
                    order = (ours, plain) if number % 2 == 0 else (plain, ours)
                    speed = {one: samples_per_s(one(shards, task, size, workers), arguments.seconds) for one in order}
                    found.append(speed[ours] / speed[plain])
                cells.append(f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
            shares = [f"{share:.0%}" for share in stage_shares(shards, task, size)]
            print(f"| {task_name} | {data} | {size} | " + " | ".join([*cells, *shares]) + " |", flush=True)


if __name__ == "__main__":
    main()
