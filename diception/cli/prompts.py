"""`diception prompts`: the prompts that a model knows without its text encoders, and more of them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "add"], help="list the prompts, or embed new ones and keep them")
    parser.add_argument("prompts", nargs="*", help="for add: the new prompts")
    parser.add_argument("--model", required=True, type=Path, help="a model directory")


def run(arguments: argparse.Namespace) -> None:
    from diception.model.checkpoint import load_model

    model = load_model(arguments.model)
    if arguments.action == "add":
        if not arguments.model.is_dir():
            raise ValueError(f"{arguments.model} comes with the package; export it to a folder first")
        if not arguments.prompts:
            raise ValueError("no prompt given to add")
        model.bank.add(arguments.prompts)
        model.bank.save(arguments.model / "prompts.safetensors")
    print("\n".join(model.bank.prompts))
