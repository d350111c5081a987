"""The option `--keys`, of the commands that read a config."""

from __future__ import annotations

import argparse
from typing import Any


class _Keys(argparse.Action):
    """Prints the keys and leaves, whatever else is missing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from diception.config.reference import COMMANDS, text

        print(text(COMMANDS[parser.prog.split()[-1]]))
        parser.exit()


def add_keys_option(parser: argparse.ArgumentParser) -> None:
    """Adds it."""
    parser.add_argument("--keys", action=_Keys, nargs=0, help="print every key with its default and meaning, and leave")
