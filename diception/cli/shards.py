"""`diception shards`: make shards from scenes or data sets, and check them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from diception.cli import shard_check
from diception.cli.shard_sources import SOURCES

if TYPE_CHECKING:
    from diception.datasets.convert import RawData


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="data", metavar="KIND", required=True)
    for name, source in SOURCES.items():
        maker = kinds.add_parser(
            name, help=source.summary, description=source.summary[0].upper() + source.summary[1:] + "."
        )
        source.add_arguments(maker)
        maker.add_argument("--out", type=Path, required=name != "normal", help="folder for the shards")
        maker.add_argument("--samples-per-shard", type=int, default=1000, help="samples in a tar (default 1000)")
        maker.add_argument("--workers", type=int, default=2, help="processes (default 2; 0: none beside this one)")
        maker.add_argument("--max-refused", type=float, default=0.01, help="share that may be refused (0.01)")
        maker.add_argument("--source", default="", help="where the data is from, for the manifest")
        maker.add_argument("--licence", default="", help="its terms, for the manifest")
        maker.set_defaults(make=_make)
    check = kinds.add_parser("check", help="stream through shards: counts, ranges, every fault; exit status 1 if any")
    shard_check.add_arguments(check)


def run(arguments: argparse.Namespace) -> None:
    arguments.make(arguments)


def _make(arguments: argparse.Namespace) -> None:
    data = SOURCES[arguments.data].make(arguments)
    if data is None:
        return
    if arguments.out is None:
        raise ValueError("--out is missing: the folder for the shards")
    _convert(data, arguments)


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
