"""Writing of shards: webdataset tars, each with its index, each appearing only when it is complete."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from webdataset.writer import TarWriter

from diception.datasets.files import remove_leftovers
from diception.datasets.images import ImageFormat, encode_rgb
from diception.datasets.index import ShardIndex, check_key, index_path, scan
from diception.datasets.manifest import sha256
from diception.datasets.sample import Sample
from diception.datasets.shards import META, META_FIELDS


class ShardWriter:
    """Write samples into `<prefix>-000000.tar`, ..., each with its index, each appearing only when it is complete.

    Run again with the same `made_by` on the same folder, it keeps the complete shards: `done` samples are there
    already and the caller goes on with the sample after them. Left by an exception, it drops the unfinished shard.
    """

    def __init__(
        self,
        folder: Path | str,
        samples_per_shard: int = 1000,
        prefix: str = "shard",
        image_format: ImageFormat = "jpg",
        made_by: str = "",
    ) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {samples_per_shard}, at least 1 is needed")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", prefix):
            raise ValueError(f"shard prefix {prefix!r} is not allowed: letters, digits, '_' and '-' only")
        self.folder, self.samples_per_shard, self.prefix = Path(folder), samples_per_shard, prefix
        self.image_format: ImageFormat = image_format
        self.made_by = made_by
        self.folder.mkdir(parents=True, exist_ok=True)
        self.indexes = self._complete_shards()
        """Of the complete shards."""
        self._tar: TarWriter | None = None
        self.refused: list[tuple[str, str]] = []
        """(key, reason) of what was refused since the last complete shard."""
        self._in_shard = 0
        self._last = self.indexes[-1].key(len(self.indexes[-1]) - 1) if self.indexes else None

    def path(self, number: int) -> Path:
        return self.folder / f"{self.prefix}-{number:06d}.tar"

    @property
    def done(self) -> int:
        """Raw samples, written or refused, that the complete shards account for."""
        return sum(len(index) + len(index.refused) for index in self.indexes)

    @property
    def _temporary(self) -> Path:
        return self.folder / f".{self.path(len(self.indexes)).name}.tmp"

    def _complete_shards(self) -> list[ShardIndex]:
        found: list[ShardIndex] = []
        while (path := self.path(len(found))).exists() and index_path(path).exists():
            index = ShardIndex.load(index_path(path))
            if index.tar_size != path.stat().st_size:
                break
            if index.made_by != self.made_by:
                raise ValueError(
                    f"{path} was written by {index.made_by!r}, this is {self.made_by!r}: "
                    "choose another folder or prefix, or remove it"
                )
            found.append(index)
        return found

    def write(self, sample: Sample) -> None:
        """Append a sample; ValueError where its key is unsafe or an annotation has another size than the image."""
        self.add(sample.key, encode_sample(sample, self.image_format))

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append what `encode_sample` gave; ValueError where its key is the one before: they would be read as one."""
        if key == self._last:
            raise ValueError(f"sample key {key!r} repeats the one before it, samples in a row must have different keys")
        if self._tar is None:
            # A fixed time, so that the same samples give the same bytes; a float would give each member a PAX header.
            self._tar = TarWriter(str(self._temporary), encoder=False, mtime=0, compress=False)
        self._tar.write({"__key__": key, **members})
        self._last = key
        self._in_shard += 1
        if self._in_shard == self.samples_per_shard:
            self._finish_shard()

    def refuse(self, key: str, reason: str) -> None:
        """Remember a raw sample that is not written, with the next complete shard."""
        self.refused.append((key, reason))

    def _finish_shard(self) -> None:
        assert self._tar is not None
        self._tar.close()
        with open(self._temporary, "rb") as file:
            os.fsync(file.fileno())
        scanned = scan(self._temporary, self.made_by)
        if len(scanned) != self._in_shard:
            raise OSError(
                f"{self._temporary} holds {len(scanned)} samples, {self._in_shard} were written: does another process "
                "write there?"
            )
        index = dataclasses.replace(scanned, refused=tuple(self.refused), sha256=sha256(self._temporary))
        path = self.path(len(self.indexes))
        # The index of a shard that is replaced must not outlive it.
        index_path(path).unlink(missing_ok=True)
        remove_leftovers(index_path(path))
        os.replace(self._temporary, path)
        index.save(index_path(path))
        self.indexes.append(index)
        self._tar, self._in_shard, self.refused = None, 0, []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._tar is None:
            return
        if kind is None:
            self._finish_shard()
        else:
            self._tar.close()
            self._tar = None
            self._temporary.unlink(missing_ok=True)


def encode_sample(sample: Sample, image_format: ImageFormat) -> dict[str, bytes]:
    """Members of a sample in a shard; ValueError: its key is unsafe, or an annotation not of the image's size."""
    check_key(sample.key)
    meta: dict[str, Any] = {"size": list(sample.size)}
    suffix, data = sample.encoded or (image_format, encode_rgb(sample.image, image_format))
    members = {suffix: data}
    for kind, annotation in sample.annotations.items():
        if annotation.size != sample.size:
            raise ValueError(f"sample {sample.key!r}: {kind} has size {annotation.size}, image {sample.size}")
        members[annotation.suffix] = annotation.to_bytes()
        if kind in META_FIELDS:
            meta[kind] = {name: getattr(annotation, name) for name in META_FIELDS[kind]}
    members[META] = json.dumps(meta).encode()
    return members


def write_samples(
    samples: Iterable[Sample], writer: ShardWriter, progress: Callable[[int], object] | None = None
) -> int:
    """Write all samples; `progress(n)` is told the number in the folder so far. Returns that number."""
    count = writer.done
    with writer:
        for sample in samples:
            writer.write(sample)
            count += 1
            if progress is not None:
                progress(count)
    return count
