"""One process at a time writes to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 15.0
"""Seconds: the lock goes with its process, however that ends, but its workers may hold it a little longer."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made if it is not there, while it is written to.

    Raises:
        ValueError: another process holds it, and goes on holding it for PATIENCE seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise ValueError(f"another process writes to {folder}; wait until it ends, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()
