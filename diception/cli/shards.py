"""`diception shards`: make shards from scenes or data sets, and check them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from diception.cli import shard_check

if TYPE_CHECKING:
    from diception.datasets.convert import RawData


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    synthetic = kinds.add_parser("synthetic", help="rendered scenes with depth, normals, instances and keypoints")
    synthetic.add_argument("--count", type=int, required=True, help="number of scenes")
    synthetic.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    synthetic.add_argument(
        "--domain", type=int, default=1, help="1: plain and easy; 2: textures, other light and shapes"
    )
    synthetic.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    synthetic.set_defaults(make=_synthetic)
    coco = kinds.add_parser("coco", help="COCO-format instances and person keypoints")
    coco.add_argument("--images", type=Path, required=True, help="folder of images")
    coco.add_argument("--instances", type=Path, required=True, help="instances JSON")
    coco.add_argument("--keypoints", type=Path, help="person keypoints JSON")
    coco.set_defaults(make=_coco)
    for maker in (synthetic, coco):
        maker.add_argument("--out", type=Path, required=True, help="folder for the shards")
        maker.add_argument("--samples-per-shard", type=int, default=1000)
        maker.add_argument("--workers", type=int, default=2, help="processes (default 2; 0: none beside this one)")
        maker.add_argument("--max-refused", type=float, default=0.01, help="share that may be refused (0.01)")
        maker.add_argument("--source", default="", help="where the data is from, for the manifest")
        maker.add_argument("--licence", default="", help="its terms, for the manifest")
    check = kinds.add_parser("check", help="stream through shards: counts, ranges, every fault; exit status 1 if any")
    shard_check.add_arguments(check)


def run(arguments: argparse.Namespace) -> None:
    arguments.make(arguments)


def _synthetic(arguments: argparse.Namespace) -> None:
    from diception.datasets.synthetic import HELD_OUT_SEED, SyntheticScenes

    if arguments.seed == HELD_OUT_SEED:
        raise ValueError(
            f"--seed {HELD_OUT_SEED} makes the scenes that `diception evaluate` measures on; choose another"
        )
    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}; it must be at least 1")
    scenes = SyntheticScenes(arguments.count, arguments.size, arguments.domain, arguments.seed)
    scenes[0]  # refuses a wrong size or domain before there is a folder
    _convert(scenes, arguments)


def _coco(arguments: argparse.Namespace) -> None:
    from diception.datasets.sources.coco import CocoData

    _convert(CocoData(arguments.images, arguments.instances, arguments.keypoints), arguments)


def _convert(data: RawData, arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from diception.datasets.convert import Conversion, convert

    names = ("samples_per_shard", "workers", "max_refused", "source", "licence")
    options = Conversion(**{name: getattr(arguments, name) for name in names})
    with tqdm(total=len(data), unit="sample") as bar:
        manifest = convert(data, arguments.out, options, lambda done: bar.update(done - bar.n))
    for one in manifest["refused"]:
        print(f"refused: {one['key']}: {one['reason']}")
    print(f"{manifest['samples']} samples in {arguments.out}, {len(manifest['refused'])} refused")
