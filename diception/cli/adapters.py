"""`diception adapters`: what adapter files there are, what is in one, and one in the layout of PEFT and diffusers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diception.model.adapters import AdapterInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="a table of the adapters in folders")
    listing.add_argument("folders", nargs="+", type=Path, help="searched with everything below them")
    listing.set_defaults(act=_list)
    inspecting = actions.add_parser("inspect", help="everything that an adapter says of itself, as JSON")
    inspecting.add_argument("adapter", type=Path)
    inspecting.set_defaults(act=_inspect)
    converting = actions.add_parser("peft", help="write it for diffusers' load_lora_weights and PEFT's PeftModel")
    converting.add_argument("adapter", type=Path)
    converting.add_argument("--out", type=Path, required=True, help="a folder")
    converting.set_defaults(act=_peft)


def run(arguments: argparse.Namespace) -> None:
    arguments.act(arguments)


def _list(arguments: argparse.Namespace) -> None:
    from diception.model.adapters import read_info

    for folder in arguments.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
    paths = [path for folder in arguments.folders for path in sorted(folder.rglob("adapter.safetensors"))]
    print(f"{'adapter':48} {'tasks':24} {'rank':>5} {'maps':>6} {'share':>7} {'steps':>7} base")
    for path in paths:
        try:
            print(_row(path, read_info(path)))
        except ValueError as error:
            print(f"{str(path):48} {error}")


def _row(path: Path, info: AdapterInfo) -> str:
    tasks = ",".join(task["name"] for task in info.tasks)
    share = f"{info.share:.2%}" if info.share else "-"
    steps = info.training.get("steps", "-")
    return f"{str(path):48} {tasks:24} {info.rank:5} {info.targets:>6} {share:>7} {steps:>7} {info.base_hash[:12]}"


def _inspect(arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from diception.model.adapters import read_adapter

    tensors, info = read_adapter(arguments.adapter)
    shapes = {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}
    said = {name: value for name, value in asdict(info).items() if name != "name"}
    print(json.dumps(said | {"tensors": shapes}, indent=1))


def _peft(arguments: argparse.Namespace) -> None:
    from diception.model.adapters import write_peft

    for path in write_peft(arguments.adapter, arguments.out):
        print(path)
