"""`diception shards check`: what is in shards, and what is wrong with them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", help="tars, with globs or braces")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the report here too")
    parser.add_argument("--panel", type=Path, metavar="FILE.png", help="draw random samples of each kind of annotation")
    parser.add_argument("--count", type=int, default=4, help="samples of each kind on the panel (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other samples on the panel")
    parser.set_defaults(make=run)


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from diception.datasets.check import check_shards
    from diception.datasets.preview import save_preview
    from diception.tables import write_report

    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}; it must be at least 1")
    report = check_shards(arguments.shards, lambda numbers: tqdm(numbers, unit="sample"))
    print(report.table())
    if arguments.out is not None:
        write_report(arguments.out, report.as_dict())
    if arguments.panel is not None:
        if report.readable:
            save_preview(report.readable, arguments.panel, arguments.count, arguments.seed)
        else:
            print("no panel: no shard can be read")
    if report.faults:
        raise SystemExit(1)
