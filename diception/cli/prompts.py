"""`diception prompts`: the prompts that a model knows without its text encoders, and more of them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "add"], help="list the prompts, or embed new ones and keep them")
    parser.add_argument("prompts", nargs="*", help="for add: the new prompts")
    parser.add_argument("--model", required=True, type=Path, help="a model directory")
    parser.add_argument("--text-encoders", type=Path, help="for add: Stable Diffusion 3, if the model has no encoders")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from diception.model.checkpoint import load_model, text_encoder_loader

    model = load_model(arguments.model)
    if arguments.action == "add":
        if not arguments.model.is_dir():
            raise ValueError(f"{arguments.model} comes with the package; export it to a folder first")
        if not arguments.prompts:
            raise ValueError("no prompt given to add")
        if arguments.text_encoders is not None:
            loader = text_encoder_loader(arguments.text_encoders, "cpu", torch.float32)
            if loader is None:
                raise ValueError(f"{arguments.text_encoders} has no text encoders of Stable Diffusion 3")
            model.bank.load_encoders_by(loader)
        model.bank.add([prompt for prompt in arguments.prompts if prompt not in model.bank.prompts])
        model.bank.save(arguments.model / "prompts.safetensors")
    print("\n".join(model.bank.prompts))
