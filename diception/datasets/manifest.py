"""Shards against the manifest beside them: what is missing, and what is no longer what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "manifest.json"


def manifest_faults(asked: Sequence[Path], samples: Mapping[Path, int]) -> Iterator[tuple[Path, str]]:
    """(shard or manifest, what is wrong) for the folders of local shards; `samples` of those that could be opened."""
    for folder in sorted({path.parent for path in asked}):
        path = folder / NAME
        if not path.is_file():
            continue
        try:
            listed = {str(entry["name"]): entry for entry in json.loads(path.read_bytes())["shards"]}
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            yield path, f"not a manifest: {error!r}"
            continue
        for name, entry in sorted(listed.items()):
            shard = folder / name
            if Path(name).name != name:
                yield path, f"names {name!r}, which is no file beside it"
            elif not shard.is_file():
                yield shard, f"missing: {NAME} names it"
            elif shard in asked:
                yield from ((shard, problem) for problem in _differences(shard, entry, samples.get(shard)))
        for shard in asked:
            if shard.parent == folder and shard.name not in listed and shard.is_file():
                yield shard, f"{NAME} does not name it"


def _differences(shard: Path, entry: Mapping[str, Any], samples: int | None) -> Iterator[str]:
    size = shard.stat().st_size
    if size != entry.get("bytes"):
        yield f"has {size} bytes, {NAME} says {entry.get('bytes')}"
    elif sha256(shard) != entry.get("sha256"):
        yield f"has other bytes than {NAME} says (SHA-256)"
    if samples is not None and samples != entry.get("samples"):
        yield f"has {samples} samples, {NAME} says {entry.get('samples')}"


def sha256(path: Path) -> str:
    """Of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
