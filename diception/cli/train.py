"""`diception train`: multi-task training."""

from __future__ import annotations

import argparse

from diception.cli.keys_option import add_keys_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_keys_option(parser)
    parser.add_argument("config", help="a yaml file, or the name of a shipped config such as tiny/multitask")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options, nested by dots: optim.lr=1e-4")
    parser.add_argument("--dry-run", action="store_true", help="check config, shards and batches, say what would run")


def run(arguments: argparse.Namespace) -> None:
    from diception.config import TrainConfig, load_config
    from diception.training.plan import plan
    from diception.training.run import train

    if arguments.dry_run:
        print(plan(load_config(arguments.config, arguments.overrides, TrainConfig)))
        return
    path = train(load_config(arguments.config, arguments.overrides, TrainConfig))
    print(f"model: {path}" if path else "stopped; the same command goes on")
