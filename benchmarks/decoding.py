"""Milliseconds that reading one painted picture takes on one core, for every task and encoding.

python benchmarks/decoding.py --data DIR
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import cv2
from codec import PAPER, ROWS
from real_data import with_kind

from diception.codec import Disturbance
from diception.datasets.sample import MemoryReader
from diception.evaluation import HeldOut
from diception.tasks import task_from_dict


def main() -> None:
    """Paints real annotations, adds noise, reads them, prints Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with coco-mini, coco-panoptic and the others")
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--count", type=int, default=6, help="samples of a set at most")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print("| task, encoding | data | median ms | slowest ms |\n|---|---|---|---|")
    for row in ROWS:
        samples = with_kind(row.samples(arguments.data / row.folder), row.kind)[: arguments.count]
        for encoding in row.encodings:
            if encoding == PAPER:
                continue
            task = task_from_dict({"type": row.task, "name": row.task, "token": "[[x]]", "encoding": encoding})
            spent = []
            for example in HeldOut(task, MemoryReader(samples), arguments.count, arguments.size):
                noisy = Disturbance(0.03, "grid").apply(example.target.rgb, example.seed)
                start = time.perf_counter()
                task.decode(noisy)
                spent.append(1000 * (time.perf_counter() - start))
            print(
                f"| {row.task}, {encoding} | {row.data} | {statistics.median(spent):.0f} | {max(spent):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
