"""Shards: the writer and the reader of samples in webdataset tars, side by side."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from webdataset.writer import TarWriter

from diception.annotations import KINDS, Annotation
from diception.datasets.cache import ShardCache
from diception.datasets.images import DECODE_ERRORS, IMAGE_SUFFIXES, ImageFormat, encode_rgb, read_image, read_reduced
from diception.datasets.index import ShardIndex, check_key, index_path, scan
from diception.datasets.sample import CorruptSample, Reduced, Sample
from diception.datasets.urls import expand

KIND_OF_SUFFIX = {annotation.suffix: kind for kind, annotation in KINDS.items()}
META = "meta.json"
META_FIELDS = {"mask": ("category",), "labels": ("names",)}
"""Fields of an annotation that its own bytes do not hold."""
MAX_OPEN = 64
"""Open shards per reader and process, well under the usual limit of 1,024 files."""


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
        """Append what `encode_sample` gave."""
        if self._tar is None:
            # A fixed time, so that the same samples give the same bytes.
            self._tar = TarWriter(str(self._temporary), encoder=False, mtime=0.0, compress=False)
        self._tar.write({"__key__": key, **members})
        self._in_shard += 1
        if self._in_shard == self.samples_per_shard:
            self._finish_shard()

    def refuse(self, key: str, reason: str) -> None:
        """Remember a raw sample that is not written, with the next complete shard."""
        self.refused.append((key, reason))

    def _finish_shard(self) -> None:
        assert self._tar is not None
        self._tar.close()
        digest = hashlib.sha256()
        with open(self._temporary, "rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
            os.fsync(file.fileno())
        scanned = scan(self._temporary, self.made_by)
        index = dataclasses.replace(scanned, refused=tuple(self.refused), sha256=digest.hexdigest())
        path = self.path(len(self.indexes))
        # The index of a shard that is replaced must not outlive it.
        index_path(path).unlink(missing_ok=True)
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


class ShardReader:
    """Samples of many shards by number. Holds no handle until it reads, and takes none along when pickled."""

    def __init__(self, urls: str | Path | Sequence[str | Path], cache: ShardCache | None = None) -> None:
        """Indexes are read at once, remote shards fetched when they are first read."""
        self._open: OrderedDict[int, FileIO] = OrderedDict()
        self.cache = cache or ShardCache()
        self.urls = expand(urls)
        self.shards = [self.cache.path(url) for url in self.urls]
        self.indexes = [self.cache.index(url) for url in self.urls]
        self.ends = np.cumsum([len(index) for index in self.indexes])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, i: int) -> tuple[int, int]:
        """(shard, row) of sample i."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard = int(np.searchsorted(self.ends, i, side="right"))
        return shard, i - int(self.ends[shard]) + len(self.indexes[shard])

    def key(self, i: int) -> str:
        shard, row = self.locate(i)
        return self.indexes[shard].key(row)

    def kinds(self, i: int) -> frozenset[str]:
        shard, row = self.locate(i)
        index = self.indexes[shard]
        return frozenset(k for suffix, k in KIND_OF_SUFFIX.items() if index.member(row, suffix) is not None)

    def serving(self, kind: str) -> NDArray[np.int64]:
        suffix = [KINDS[kind].suffix] if kind in KINDS else []
        return np.flatnonzero(np.concatenate([index.has(suffix) for index in self.indexes])).astype(np.int64)

    def read(self, i: int, kinds: Collection[str] | None = None) -> Sample:
        return self._read(i, kinds, lambda key, data: Sample(key, read_image(data)))

    def read_reduced(self, i: int, kinds: Collection[str] | None, at_least: int) -> Sample:
        def decode(key: str, data: bytes) -> Sample:
            image, size, box = read_reduced(data, at_least)
            return Sample(key, image, reduced=Reduced(size, box) if image.shape[:2] != size else None)

        return self._read(i, kinds, decode)

    def _read(self, i: int, kinds: Collection[str] | None, decode: Callable[[str, bytes], Sample]) -> Sample:
        shard, row = self.locate(i)
        key = self.indexes[shard].key(row)
        chosen = self.kinds(i) if kinds is None else self.kinds(i) & frozenset(kinds)
        try:
            sample = decode(key, self._image_bytes(shard, row))
            for kind in sorted(chosen):
                annotation = self.read_annotation(shard, row, kind)
                if annotation.size != sample.size:
                    raise ValueError(f"{kind} has size {annotation.size}, its image {sample.size}")
                sample.annotations[kind] = annotation
        except DECODE_ERRORS as error:
            raise CorruptSample(self.urls[shard], key, str(error) or type(error).__name__) from error
        return sample

    def _image_bytes(self, shard: int, row: int) -> bytes:
        suffix = self.indexes[shard].image_suffix(row)
        if suffix is None:
            raise ValueError(f"no image, allowed are {', '.join(IMAGE_SUFFIXES)}")
        return self.read_member(shard, row, suffix)

    def read_image(self, shard: int, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8; raises one of DECODE_ERRORS."""
        return read_image(self._image_bytes(shard, row))

    def read_annotation(self, shard: int, row: int, kind: str) -> Annotation:
        """One annotation with the fields that lie in meta.json; raises one of DECODE_ERRORS."""
        annotation = KINDS[kind].from_bytes(self.read_member(shard, row, KINDS[kind].suffix))
        if kind not in META_FIELDS or self.indexes[shard].member(row, META) is None:
            return annotation
        stored = json.loads(self.read_member(shard, row, META)).get(kind, {})
        fields = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items() if n in META_FIELDS[kind]}
        return dataclasses.replace(cast(Any, annotation), **fields) if fields else annotation

    def read_member(self, shard: int, row: int, suffix: str) -> bytes:
        """Raw bytes of one member; ValueError where the shard ends inside it."""
        place = self.indexes[shard].member(row, suffix)
        if place is None:
            raise ValueError(f"no member {suffix!r}")
        offset, size = place
        # pread keeps no position, so a handle shared by a fork or by threads reads the right bytes.
        data = os.pread(self._handle(shard).fileno(), size, offset)
        if len(data) != size:
            raise ValueError(f"{suffix} is cut off: {len(data)} of {size} bytes")
        return data

    def _handle(self, shard: int) -> FileIO:
        if shard not in self._open:
            self._open[shard] = FileIO(str(self.cache.fetch(self.urls[shard])), "r")
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return self._open[shard]

    def close(self) -> None:
        """Give the handles back; reading again opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}
