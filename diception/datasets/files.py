"""Files that appear whole or not at all, and what killed writers leave of them."""

from __future__ import annotations

import glob
import os
import uuid
from pathlib import Path


def temporary_path(path: Path) -> Path:
    """Beside the path, a name of its own for every writer: processes of several machines may share a folder."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def remove_leftovers(path: Path) -> None:
    """The temporary files of killed writers of a path. No other writer of it may be at work."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename: a reader sees the whole file or none."""
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
