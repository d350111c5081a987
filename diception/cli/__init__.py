"""The `diception` command: subcommands are found here and imported only when called."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib import import_module
from keyword import iskeyword

from diception import __version__
from diception.errors import FaultyData

COMMANDS = {
    "quickstart": "the whole life cycle on the tiny model, with a report at the end",
    "predict": "predict tasks on images: floats, masks, keypoints and pictures",
    "evaluate": "metrics of every task on held-out shards, beside baselines that ignore the image",
    "adapt": "learn a new task from a folder of images and a folder of targets (LoRA)",
    "adapters": "list and inspect adapters, or write one in the layout of PEFT and diffusers",
    "train": "multi-task training from shards; the same command resumes",
    "train-autoencoder": "fit a small autoencoder on images and painted targets",
    "export": "turn a run into a model directory, or into the released format",
    "import": "turn Stable Diffusion 3 and the released weights into a model directory",
    "shards": "make and check webdataset shards",
    "prompts": "list the prompts of a model, or add some",
    "codec-check": "what an autoencoder and an encoding let through: the ceiling of any model",
}


UNUSABLE_PATH = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of a path that the user named for output; their texts name it."""


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand. Exit status: 0 done, 2 the input is wrong (one line), 130 interrupted, 1 anything else."""
    # diffusers and peft import bitsandbytes where it is installed; on some CPUs it warns of a kernel it could have.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(prog="diception", description="Stable Diffusion 3 as one perception model.")
    parser.add_argument("--version", action="version", version=f"diception {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    given = next((word for word in (sys.argv[1:] if argv is None else argv) if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == given:
            file = name.replace("-", "_") + "_" * iskeyword(name)
            module = import_module(f"diception.cli.{file}")
            module.add_arguments(sub)
            sub.set_defaults(execute=module.run)
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on key=value behind an option.
    if rest and not (hasattr(arguments, "overrides") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    try:
        arguments.execute(arguments)
    except (ValueError, FaultyData, *UNUSABLE_PATH) as error:
        if os.environ.get("DICEPTION_DEBUG"):
            raise
        print(f"diception {arguments.command}: {_told(error)}", file=sys.stderr)
        return 2
    except (OSError, FloatingPointError) as error:  # a full disk, a run whose gradients have become useless
        if os.environ.get("DICEPTION_DEBUG"):
            raise
        print(f"diception {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"diception {arguments.command}: interrupted; the same command continues where it can", file=sys.stderr)
        return 130
    return 0


def _told(error: Exception) -> str:
    """What an error says, in one line; of one from a loader process without its traceback."""
    text = str(error)
    if text.startswith("Caught "):
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1]
    return " ".join(text.split())
