"""Files named by patterns with stars; what the stars stand for tells which files belong together."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diception.datasets.index import check_key

Stars = tuple[str, ...]


@dataclass(frozen=True)
class Matched:
    """Files in rows, a row per key and a file per pattern."""

    keys: list[str]
    files: list[tuple[str, ...]]
    alone: list[str]
    """Files for which another pattern has no partner, left out."""


def match_files(patterns: Sequence[tuple[str, Collection[str]]]) -> Matched:
    """Files of several (pattern, allowed endings) for which all stars agree; the first pattern is that of the images.

    Raises:
        ValueError: a pattern names nothing, nothing agrees, two files have one key, or a key is not allowed.
    """
    tables = [find_files(pattern, endings) for pattern, endings in patterns]
    numbers = {len(next(iter(table))) for table in tables}
    if len(numbers) > 1:
        raise ValueError(f"patterns must have the same number of stars: {', '.join(p for p, _ in patterns)}")
    common = sorted(set(tables[0]).intersection(*tables[1:]))
    if not common:
        examples = "; ".join(
            f"{pattern}: {_example(table)}" for (pattern, _), table in zip(patterns, tables, strict=True)
        )
        raise ValueError(f"no file of one pattern has a partner in the others: {examples}")
    files = [tuple(table[stars] for table in tables) for stars in common]
    keys = [make_key(stars or (Path(row[0]).stem,), row[0]) for stars, row in zip(common, files, strict=True)]
    refuse_repeated(keys)
    kept = set(common)
    alone = sorted(file for table in tables for stars, file in table.items() if stars not in kept)
    return Matched(keys, files, alone)


def find_files(pattern: str, endings: Collection[str]) -> dict[Stars, str]:
    """Files by what the stars stand for: at least one character, within one name.

    A folder means all its files with one of the endings, as a last part that ends in a star does; the star then does
    not stand for the ending.
    """
    path = Path(pattern)
    if "*" not in pattern and path.is_dir():
        path /= "*"
    if "**" in pattern:
        raise ValueError(f"{pattern}: '**' is not allowed, a star stands for a part of one name")
    last = path.name
    if not last.endswith("*") and path.suffix.lower().lstrip(".") not in endings:
        raise ValueError(f"{pattern}: must end in one of {', '.join(endings)}, in a star, or be a folder")
    first = next((i for i, part in enumerate(path.parts) if "*" in part), len(path.parts) - 1)
    found: dict[Stars, str] = {}
    for stars, file in _walk(Path(*path.parts[:first]), path.parts[first:], endings):
        if stars in found:
            raise ValueError(f"two files of one name: {found[stars]} and {file}")
        found[stars] = file
    if not found:
        raise ValueError(f"{pattern}: no such file (endings: {', '.join(endings)})")
    return found


def _walk(folder: Path, parts: Sequence[str], endings: Collection[str]) -> Iterator[tuple[Stars, str]]:
    last = len(parts) == 1
    ending = rf"\.(?i:{'|'.join(map(re.escape, endings))})" if last and parts[0].endswith("*") else ""
    expression = re.compile("(.+?)".join(map(re.escape, parts[0].split("*"))) + ending)
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: no such folder") from error
    for entry in entries:
        match = expression.fullmatch(entry.name)
        if match is None or (entry.name.startswith(".") and parts[0].startswith("*")):
            continue
        if last and entry.is_file():
            yield match.groups(), str(folder / entry.name)
        elif not last and entry.is_dir():
            for stars, file in _walk(folder / entry.name, parts[1:], endings):
                yield (*match.groups(), *stars), file


def make_key(names: Sequence[str], file: str) -> str:
    """Names joined by "/", in characters that a tar's members may have; ValueError, naming the file: too long."""
    try:
        return check_key("/".join(re.sub(r"[^A-Za-z0-9_-]", "_", name) for name in names))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def refuse_repeated(keys: Sequence[str]) -> None:
    """ValueError with the number and an example where samples share a key."""
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise ValueError(f"{len(repeated)} keys belong to several images, the first is {repeated[0]!r}")


def short(pattern: str) -> str:
    """A pattern from the folder before its first star on, to say what was converted, wherever it lay."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if "*" in part), len(parts) - 1)
    return "/".join(parts[max(first - 1, 0) :]) if "*" in pattern else Path(pattern).name


def _example(found: dict[Stars, str]) -> str:
    return ", ".join(sorted(Path(file).name for file in list(found.values())[:3]))
