"""What urls give, as local files: complete or not at all, and tried again after a failure."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import fsspec.core
from webdataset.gopen import gopen

from diception.datasets.files import remove_leftovers, temporary_path

log = logging.getLogger(__name__)

ATTEMPTS = 4
"""Times that a fetch is tried."""
STALE = 86_400.0
"""Seconds without a change after which nobody writes a temporary file any more."""
WAIT = 1.0
"""Seconds before the second attempt; four times as long before each further one."""


def retry(url: str, attempt: Callable[[], None]) -> None:
    """ValueError where it is no use to try again, or the last failure was one; OSError where it may go better later."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except (OSError, ValueError) as error:
            hopeless = isinstance(error, FileNotFoundError | PermissionError)
            if hopeless or number == ATTEMPTS:
                kind = ValueError if hopeless or isinstance(error, ValueError) else OSError
                raise kind(f"{url}: cannot be fetched: {error or type(error).__name__}") from error
            log.warning("%s: attempt %d of %d failed: %s", url, number, ATTEMPTS, error)
            time.sleep(WAIT * 4 ** (number - 1))


def copy(url: str, path: Path, check: Callable[[Path], object]) -> None:
    """Writes what a url gives, complete and as `check` takes it or not at all; the lock of the path is held.

    webdataset runs `pipe:` commands, the rest is fsspec's.
    """
    remove_leftovers(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        if url.startswith("pipe:"):
            with gopen(url, "rb") as remote, open(temporary, "wb") as file:
                shutil.copyfileobj(remote, file, 1 << 20)
        else:
            _get(url, temporary)
        check(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Drops what killed fetches have left there long ago; what is still fetched is written to all the time."""
    for left in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()


def _get(url: str, path: Path) -> None:
    system, place = fsspec.core.url_to_fs(url)
    try:
        system.get_file(place, str(path))
    except OSError:
        raise
    except Exception as error:  # every kind of store has its own classes of errors
        raise OSError(f"{type(error).__name__}: {error}") from error
