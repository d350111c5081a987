"""Copies of remote shards on local disk: fetched when first read, by one process, and the oldest dropped for space."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from io import FileIO
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from diception.datasets.fetch import copy, remove_stale, retry
from diception.datasets.index import ShardIndex, index_path, scan
from diception.datasets.manifest import sha256
from diception.datasets.urls import is_remote

log = logging.getLogger(__name__)


class ShardCache:
    """Where shards lie on local disk. Local ones lie where they are; remote ones need a folder.

    Several processes may use one folder. A shard that is dropped while it is read stays readable through the open file,
    and on the disk until that is closed. A copy is taken as it is: a shard that is replaced where it comes from is
    noticed when it is fetched again.
    """

    def __init__(self, folder: Path | str | None = None, max_bytes: int | None = None) -> None:
        """`max_bytes`: of the tars together, without dropped ones that are still open; None: no limit. Indexes stay."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"a shard cache of {max_bytes} bytes is not possible, at least 1 is needed")
        self.folder = None if folder is None else Path(folder)
        self.max_bytes = max_bytes

    def path(self, url: str) -> Path:
        """Where the shard lies or will lie; nothing is fetched."""
        if not is_remote(url):
            return Path(url)
        if self.folder is None:
            raise ValueError(f"{url!r} is remote: a cache folder is needed (data.cache), shards are read at random")
        if not url.startswith("pipe:") and not re.fullmatch(r"[A-Za-z0-9+.-]+://[\w./:@%+,=&?~-]+", url):
            raise ValueError(f"url {url!r} has characters that are not allowed, percent-encode them")
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(url.split("?")[0]).name.removesuffix(".tar"))[-60:]
        return self.folder / f"{stem}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.tar"

    def index(self, url: str) -> ShardIndex:
        """The shard's index: kept, fetched from beside the shard, or made from the shard itself."""
        path = self.path(url)
        if not is_remote(url):
            return _local_index(path)
        beside = index_path(path)
        if not beside.exists():
            self._fetch_index(url, beside)
        return ShardIndex.load(beside)

    def open(self, url: str, index: ShardIndex) -> FileIO:
        """The shard of this index, to be read, fetched where it is not there.

        Raises:
            ValueError: there is no such shard, or another one than its index is of: the index is dropped.
            OSError: it cannot be fetched now: the store does not answer, the disk is full.
        """
        path = self.path(url)
        if not is_remote(url):
            return FileIO(str(path))
        # Opened under the lock: what is closed and unlocked may be dropped by another process.
        with self._lock(path):
            fetched = self._ensure(url, path, index)
            file = FileIO(str(path))
        if fetched:
            self._make_room(path)
        return file

    def _ensure(self, url: str, path: Path, index: ShardIndex | None) -> bool:
        """Whether the shard had to be fetched; its lock is held."""
        if path.exists() and (index is None or path.stat().st_size == index.tar_size):
            os.utime(path)
            return False
        try:
            retry(url, lambda: copy(url, path, lambda copied: _check_copy(copied, index)))
        except ValueError:
            # It may be the index that is out of date: the next start takes the one that is there then.
            index_path(path).unlink(missing_ok=True)
            raise
        return True

    def _fetch_index(self, url: str, beside: Path) -> None:
        path = self.path(url)
        with self._lock(path):
            if beside.exists():
                return
            if _copy_index(url, beside):
                # A tar that lies there was fetched for another index.
                path.unlink(missing_ok=True)
                return
            fetched = self._ensure(url, path, None)
            scan(path).save(beside)
        if fetched:
            self._make_room(path)

    def _lock(self, path: Path) -> FileLock:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_name(f".{path.name}.lock"))

    def _make_room(self, newest: Path) -> None:
        """Drops the shards that were asked for longest ago, never the newest.

        The newest shard's lock is not held here and a busy shard is left alone: no process waits for one that waits
        for it.
        """
        assert self.folder is not None
        remove_stale(self.folder)
        if self.max_bytes is None:
            return
        with self._lock(self.folder / "room"):
            known = [(path.stat(), path) for path in self.folder.glob("*.tar")]
            total = sum(stat.st_size for stat, _ in known)
            for stat, path in sorted(known, key=lambda one: one[0].st_mtime_ns):
                if total <= self.max_bytes:
                    break
                if path != newest and self._drop(path):
                    total -= stat.st_size

    def _drop(self, path: Path) -> bool:
        """Whether the shard is gone; False where a process is fetching or opening it."""
        try:
            with self._lock(path).acquire(timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True


def size_problem(index: ShardIndex, size: int) -> str:
    return f"it has {size} bytes, its index is of a tar of {index.tar_size}"


def _check_copy(path: Path, index: ShardIndex | None) -> None:
    """ValueError unless the tar is the one of its index: another one's samples would lie elsewhere."""
    if index is None:
        return
    if (size := path.stat().st_size) != index.tar_size:
        raise ValueError(f"{size_problem(index, size)}; if it was replaced, start again")
    if index.sha256 and sha256(path) != index.sha256:
        raise ValueError("it has other bytes than its index says (SHA-256); if it was replaced, start again")


def _local_index(shard: Path) -> ShardIndex:
    """Of the file beside a local shard, or else of the shard itself."""
    path = index_path(shard)
    if not shard.is_file():
        raise ValueError(f"{shard}: no such shard")
    if not path.exists():
        return scan(shard)
    index, size = ShardIndex.load(path), shard.stat().st_size
    if index.tar_size != size:
        raise ValueError(f"{shard}: {size_problem(index, size)}; if it was replaced, remove {path}")
    return index


def _copy_index(url: str, beside: Path) -> bool:
    """Whether there is an index beside the remote shard."""
    if url.startswith("pipe:") or not url.endswith(".tar"):
        return False
    try:
        copy(url.removesuffix(".tar") + ".index.json", beside, ShardIndex.load)
    except (OSError, ValueError) as error:
        log.info("%s has no index beside it (%s): the shard is fetched", url, error)
        return False
    return True
