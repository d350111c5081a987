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

    from diception.model.bank import PromptBank
    from diception.model.checkpoint import text_encoder_loader
    from diception.model.weights import TINY

    root = TINY if str(arguments.model) == "tiny" else arguments.model
    if not root.is_dir():
        raise ValueError(f"no model at {str(root)!r}: neither a directory nor `tiny`")
    loader = text_encoder_loader(arguments.text_encoders or root, "cpu", torch.float32)
    bank = PromptBank.load(root / "prompts.safetensors", loader)
    if arguments.action == "add":
        if not arguments.model.is_dir():
            raise ValueError(f"{arguments.model} comes with the package; export it to a folder first")
        if not arguments.prompts:
            raise ValueError("no prompt given to add")
        if arguments.text_encoders is not None and (loader is None or bank.encoder is not None):
            reason = "has none" if loader is None else "is not needed, the model encodes words itself"
            raise ValueError(f"--text-encoders {arguments.text_encoders} {reason}")
        bank.add([prompt for prompt in arguments.prompts if prompt not in bank.prompts])
        bank.save(root / "prompts.safetensors")
    print("\n".join(bank.prompts))
