"""The index beside a shard: where each member lies in the tar, so that any sample is read without scanning."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diception.datasets.files import write_atomically
from diception.datasets.images import IMAGE_SUFFIXES

VERSION = 1
MAX_KEY_BYTES = 80
"""A tar header holds 100 bytes of name; the longest suffix needs the rest."""


def check_key(key: str) -> str:
    """The key itself; ValueError unless it is safe as a relative file name (keys name the files of predictions)."""
    parts = key.split("/")
    bad = any(part in ("", ".", "..") for part in parts) or "\\" in key or ":" in key
    if bad or "." in parts[-1] or not key.isprintable() or len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(
            f"sample key {key!r} is not allowed: a relative path of at most {MAX_KEY_BYTES} bytes with no dot in its "
            "last part, no '..', backslash, colon or control character"
        )
    return key


def index_path(shard: Path) -> Path:
    """`train-000000.tar` -> `train-000000.index.json`."""
    return shard.with_suffix(".index.json")


@dataclass(eq=False)
class ShardIndex:
    """Positions of n samples with S different member suffixes, as arrays: a million samples stay small in a worker."""

    keys: NDArray[np.bytes_]
    """(n,) keys, utf-8."""
    suffixes: tuple[str, ...]
    """S suffixes: "jpg", "depth.npy", "meta.json", ..."""
    offsets: NDArray[np.int64]
    """(n, S) first byte in the tar; -1 where the sample has no such member."""
    sizes: NDArray[np.int64]
    """(n, S) bytes; 0 where the sample has no such member."""
    tar_size: int
    made_by: str = ""
    """What the writer was asked to write, so that the same command can continue."""
    refused: tuple[tuple[str, str], ...] = ()
    """(key, reason) of the raw samples between these that could not be converted."""
    sha256: str = ""
    """Of the tar; empty where nobody has computed it."""

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        return self.keys[row].decode()

    def member(self, row: int, suffix: str) -> tuple[int, int] | None:
        """(offset, size) of a sample's member, None where it has none."""
        if suffix not in self.suffixes:
            return None
        column = self.suffixes.index(suffix)
        offset = int(self.offsets[row, column])
        return None if offset < 0 else (offset, int(self.sizes[row, column]))

    def image_suffix(self, row: int) -> str | None:
        """Suffix of the sample's image, None where it has no image."""
        found = (s for s, offset in zip(self.suffixes, self.offsets[row], strict=True) if offset >= 0)
        return next((suffix for suffix in found if suffix in IMAGE_SUFFIXES), None)

    def has(self, suffixes: Sequence[str]) -> NDArray[np.bool_]:
        """(n,) bool: samples with at least one of the suffixes."""
        columns = [i for i, suffix in enumerate(self.suffixes) if suffix in suffixes]
        return np.asarray((self.offsets[:, columns] >= 0).any(axis=1))

    def save(self, path: Path) -> None:
        content = {
            "version": VERSION,
            "tar_size": self.tar_size,
            "made_by": self.made_by,
            "refused": self.refused,
            "sha256": self.sha256,
            "suffixes": list(self.suffixes),
            "keys": [key.decode() for key in self.keys],
            "offsets": self.offsets.tolist(),
            "sizes": self.sizes.tolist(),
        }
        write_atomically(path, json.dumps(content, separators=(",", ":")).encode())

    @classmethod
    def load(cls, path: Path) -> ShardIndex:
        """ValueError naming the file where it is not an index or points outside its tar."""
        try:
            content = json.loads(path.read_bytes())
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']!r}, known is {VERSION}")
            shape = (len(content["keys"]), len(content["suffixes"]))
            index = cls(
                keys=np.array([check_key(key).encode() for key in content["keys"]], dtype=np.bytes_),
                suffixes=tuple(str(suffix) for suffix in content["suffixes"]),
                offsets=np.array(content["offsets"], dtype=np.int64).reshape(shape),
                sizes=np.array(content["sizes"], dtype=np.int64).reshape(shape),
                tar_size=int(content["tar_size"]),
                made_by=str(content["made_by"]),
                refused=tuple((str(key), str(reason)) for key, reason in content.get("refused", ())),
                sha256=str(content.get("sha256", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}: not a shard index: {error}; remove it to have the shard scanned") from error
        if ((index.sizes < 0) | (index.offsets + index.sizes > index.tar_size)).any():
            raise ValueError(f"{path}: points outside its shard of {index.tar_size} bytes; remove it")
        return index


def scan(shard: Path, made_by: str = "") -> ShardIndex:
    """Index a tar by reading its headers. ValueError where it is missing, not a plain tar, cut off or empty."""
    found, problems = salvage(shard, made_by, until_first=True)
    if problems:
        raise ValueError(f"{shard}: {problems[0]}")
    assert found is not None
    return found


def salvage(shard: Path, made_by: str = "", until_first: bool = False) -> tuple[ShardIndex | None, list[str]]:
    """Index what can be read of a tar, and what is wrong with it; None where it holds nothing of use.

    `until_first` stops at the first problem that is found.
    """
    rows: list[tuple[str, dict[str, tuple[int, int]]]] = []
    problems: list[str] = []
    size = 0
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > size:
                    problems.append(f"cut off inside {member.name!r}")
                    break
                problems += _take(rows, member)
                if problems and until_first:
                    break
            else:
                problems += _ending(shard, tar)
    except FileNotFoundError:
        problems.append("no such shard")
    except (tarfile.TarError, OSError, ValueError) as error:
        problems.append(f"not an uncompressed, complete tar: {error}")
    if not rows and not problems:
        problems.append("holds no sample")
    return (_from_rows(rows, size, made_by) if rows else None), problems


def _ending(shard: Path, tar: tarfile.TarFile) -> list[str]:
    """tarfile takes an absent or broken header for the end of the archive: only a block of zeros is one."""
    last = tar.getnames()[-1] if tar.getnames() else ""
    with open(shard, "rb") as file:
        file.seek(tar.offset)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return [f"cut off after {last!r}: the end of the archive is not marked"]
    return [f"broken header after {last!r}"] if any(block) else []


def _take(rows: list[tuple[str, dict[str, tuple[int, int]]]], member: tarfile.TarInfo) -> list[str]:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return []
    try:
        _add_member(rows, member)
    except ValueError as error:
        return [f"member {member.name!r}: {error}"]
    return []


def _add_member(rows: list[tuple[str, dict[str, tuple[int, int]]]], member: tarfile.TarInfo) -> None:
    """webdataset's rule: members in a row with one name up to the first dot of the base name are one sample."""
    folder, _, base = member.name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    suffix = suffix.lower()
    if not rows or rows[-1][0] != key or suffix in rows[-1][1]:
        rows.append((check_key(key), {}))
    rows[-1][1][suffix] = (member.offset_data, member.size)


def _from_rows(rows: list[tuple[str, dict[str, tuple[int, int]]]], size: int, made_by: str) -> ShardIndex:
    suffixes = tuple(sorted({suffix for _, members in rows for suffix in members}))
    offsets = np.full((len(rows), len(suffixes)), -1, dtype=np.int64)
    sizes = np.zeros((len(rows), len(suffixes)), dtype=np.int64)
    for row, (_, members) in enumerate(rows):
        for column, suffix in enumerate(suffixes):
            if suffix in members:
                offsets[row, column], sizes[row, column] = members[suffix]
    keys = np.array([key.encode() for key, _ in rows], dtype=np.bytes_)
    return ShardIndex(keys, suffixes, offsets, sizes, size, made_by)
