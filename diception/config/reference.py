"""Every key of a config with its default and what it means, read from the dataclasses' own documentation.

`python -m diception.config.reference` prints `docs/keys.md`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from diception.config.few_shot import FewShotConfig
from diception.config.training import AutoencoderConfig, TrainConfig

COMMANDS = {"train": TrainConfig, "adapt": FewShotConfig, "train-autoencoder": AutoencoderConfig}
"""What the configs of each command may hold."""


@dataclass(frozen=True)
class Key:
    """One option."""

    name: str
    """With dots, `[]` where a list has such entries: `optim.lr`, `data.sources[].name`."""
    default: str
    """As in yaml; empty where the keys below it say."""
    meaning: str


def keys(schema: type) -> Iterator[Key]:
    """The keys of a config's dataclass, in its order, nested ones below the one that holds them."""
    hints, meanings = get_type_hints(schema), _meanings(schema)
    for entry in fields(schema):
        inner, many = _inner(hints[entry.name])
        yield Key(entry.name, _default(entry), meanings[entry.name])
        if inner is not None:
            for key in keys(inner):
                yield Key(f"{entry.name}{'[]' * many}.{key.name}", key.default, key.meaning)


def markdown(schema: type) -> str:
    """A table of the keys."""
    rows = [f"| `{key.name}` | {f'`{key.default}`' if key.default else ''} | {key.meaning} |" for key in keys(schema)]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def document() -> str:
    """All of them, as a page."""
    parts = [f"## {name}\n\n{markdown(schema)}\n" for name, schema in COMMANDS.items()]
    head = "# Keys\n\nOf yaml files and of `key=value` on the command line; `--keys` prints them, too.\n"
    return "\n".join([head, *parts])


def text(schema: type, width: int = 110) -> str:
    """The keys for a terminal."""
    lines = []
    for key in keys(schema):
        lines.append(f"{key.name}: {key.default}".rstrip(": "))
        lines += textwrap.wrap(key.meaning, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _inner(hint: Any) -> tuple[type | None, bool]:
    """The dataclass that a key holds, if any, and whether it holds a list of such."""
    for one in (hint, *get_args(hint)):
        if is_dataclass(one) and isinstance(one, type):
            return one, hint is not one and type(None) not in get_args(hint)
    return None, False


def _default(entry: Field) -> str:
    made = entry.default if entry.default_factory is MISSING else entry.default_factory()
    if is_dataclass(made):
        return ""
    if isinstance(made, bool) or made is None:
        return {True: "true", False: "false", None: "null"}[made]
    return str(list(made)) if isinstance(made, tuple) else str(made) if made != "" else '""'


def _meanings(schema: type) -> dict[str, str]:
    """What the string below each field says."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for entry, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and isinstance(below, ast.Expr):
            assert isinstance(below.value, ast.Constant)
            found[entry.target.id] = " ".join(str(below.value.value).split())
    return found


if __name__ == "__main__":
    print(document(), end="")
