"""Shards: samples of webdataset tars by number, through the index of each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diception.annotations import KINDS, Annotation
from diception.datasets.cache import ShardCache
from diception.datasets.images import DECODE_ERRORS, IMAGE_SUFFIXES, read_image, read_reduced
from diception.datasets.sample import CorruptSample, Reduced, Sample
from diception.datasets.urls import expand

log = logging.getLogger(__name__)

KIND_OF_SUFFIX = {annotation.suffix: kind for kind, annotation in KINDS.items()}
META = "meta.json"
META_FIELDS = {"mask": ("category",), "labels": ("names",)}
"""Fields of an annotation that its own bytes do not hold."""
MAX_OPEN = 64
"""Open shards per reader and process, well under the usual limit of 1,024 files."""

PAUSES_S = (0.1, 1.0, 10.0)
"""Seconds before what a file system failed to read is tried again."""


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

    def fingerprint(self) -> str:
        """32 hex digits that change with the order, sizes and, where the indexes know them, hashes of the shards."""
        told = "\n".join(f"{index.tar_size} {len(index)} {index.sha256}" for index in self.indexes)
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

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
        # A shard that cannot be opened says nothing of its samples.
        self._handle(shard)
        try:
            sample = decode(key, self._image_bytes(shard, row))
            for kind in sorted(chosen):
                annotation = self.read_annotation(shard, row, kind)
                if annotation.size != sample.size:
                    raise ValueError(f"{kind} has size {annotation.size}, its image {sample.size}")
                sample.annotations[kind] = annotation
        except DECODE_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the file system failed, which says nothing of the sample
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
        data = self._bytes(shard, size, offset)
        if len(data) != size:
            raise ValueError(f"{suffix} is cut off: {len(data)} of {size} bytes")
        return data

    def _bytes(self, shard: int, size: int, offset: int) -> bytes:
        """Of an open shard, which is opened and read again some times where the file system fails; then an OSError."""
        for pause in (*PAUSES_S, None):
            try:
                # pread keeps no position, so a handle shared by a fork or by threads reads the right bytes.
                return os.pread(self._handle(shard).fileno(), size, offset)
            except OSError as error:
                if pause is None:
                    raise OSError(error.errno, f"{self.urls[shard]}: {error.strerror}") from error
                log.warning("%s: %s; trying again", self.urls[shard], error)
                if shard in self._open:
                    self._open.pop(shard).close()
                time.sleep(pause)
        raise AssertionError

    def _handle(self, shard: int) -> FileIO:
        if shard not in self._open:
            self._open[shard] = self.cache.open(self.urls[shard], self.indexes[shard])
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
