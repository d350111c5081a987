"""What is in a set of shards: counts, value ranges, and every fault by shard and key."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diception.datasets.cache import ShardCache, size_problem
from diception.datasets.index import ShardIndex, index_path, salvage
from diception.datasets.manifest import manifest_faults
from diception.datasets.measures import MEASURES, KindReport
from diception.datasets.shards import ShardReader
from diception.datasets.urls import expand, is_remote

COLUMNS = ("least", "2 %", "median", "98 %", "most")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; the key is empty where it is the shard itself."""

    shard: str
    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.key}: {self.problem}" if self.key else f"{self.shard}: {self.problem}"


@dataclass
class ShardReport:
    """What `check` found."""

    shards: int = 0
    samples: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    """Image size "HxW" -> samples."""
    kinds: dict[str, KindReport] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    readable: list[str] = field(default_factory=list)
    """Shards that a `ShardReader` takes."""

    @property
    def ok(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        kinds = {
            kind: {
                "count": one.count,
                "valid": one.valid,
                "numbers": {name: dict(zip(COLUMNS, row, strict=True)) for name, row in one.rows().items()},
            }
            for kind, one in sorted(self.kinds.items())
        }
        faults = [{"shard": one.shard, "key": one.key, "problem": one.problem} for one in self.faults]
        return {"shards": self.shards, "samples": self.samples, "sizes": self.sizes, "kinds": kinds, "faults": faults}

    def table(self) -> str:
        """Several lines for a terminal."""
        sizes = ", ".join(f"{size} ({count})" for size, count in self.sizes.most_common(4))
        more = f" and {len(self.sizes) - 4} more" if len(self.sizes) > 4 else ""
        lines = [f"{self.samples} samples in {self.shards} shards; image sizes: {sizes or 'none'}{more}"]
        if self.kinds:
            lines.append(f"{'annotation':<12}{'samples':>9}{'valid':>8}  {'':<28}" + _row(COLUMNS))
        for kind, one in sorted(self.kinds.items()):
            start = f"{kind:<12}{one.count:>9}{one.valid:>8.1%}"
            for name, row in one.rows().items():
                lines.append(f"{start}  {name:<28}" + _row([f"{value:.4g}" for value in row]))
                start = " " * 29
        lines.append(f"{len(self.faults)} faults" + (":" if self.faults else ""))
        return "\n".join(lines + [f"  {fault}" for fault in self.faults])


def _row(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>11}" for cell in cells)


class _Tolerant(ShardCache):
    """Indexes what can be read of a shard, and says what is wrong with it."""

    def __init__(self, cache: ShardCache, faults: list[Fault]) -> None:
        super().__init__(cache.folder, cache.max_bytes)
        self.faults = faults

    def index(self, url: str) -> ShardIndex:
        """Of a local shard by its own headers, to be compared with the index beside it."""
        if is_remote(url):
            return super().index(url)
        path = self.path(url)
        found, problems = salvage(path)
        beside = index_path(path)
        if found is not None and beside.exists() and not problems:
            problems = list(_index_problems(found, beside))
        self.faults.extend(Fault(url, "", problem) for problem in problems)
        if found is None:
            raise ValueError("")
        return found


def _index_problems(found: ShardIndex, beside: Path) -> Iterator[str]:
    try:
        saved = ShardIndex.load(beside)
    except ValueError as error:
        yield str(error)
        return
    if saved.tar_size != found.tar_size:
        yield size_problem(saved, found.tar_size)
    elif (
        saved.suffixes != found.suffixes
        or not np.array_equal(saved.keys, found.keys)
        or not np.array_equal(saved.offsets, found.offsets)
        or not np.array_equal(saved.sizes, found.sizes)
    ):
        yield f"{beside.name} does not say what the shard holds; remove it"


def _open(urls: Sequence[str], cache: ShardCache, faults: list[Fault]) -> list[tuple[str, ShardReader]]:
    readers, tolerant = [], _Tolerant(cache, faults)
    for url in urls:
        try:
            readers.append((url, ShardReader([url], tolerant)))
        except (ValueError, OSError) as error:
            if str(error):
                faults.append(Fault(url, "", str(error).removeprefix(f"{url}: ")))
    return readers


def _check_sample(reader: ShardReader, row: int, report: ShardReport) -> Iterator[str]:
    """Every problem of one sample of a reader of one shard."""
    size: tuple[int, ...] | None = None
    # Whatever broken bytes raise, the samples after them are still to be checked.
    try:
        size = reader.read_image(0, row).shape[:2]
        report.sizes[f"{size[0]}x{size[1]}"] += 1
    except Exception as error:
        yield f"image: {error}"
    for kind in sorted(reader.kinds(row)):
        try:
            annotation = reader.read_annotation(0, row, kind)
            if size is not None and annotation.size != size:
                yield f"{kind} has size {annotation.size}, its image {size}"
            measure = MEASURES[kind][1](annotation)
            report.kinds.setdefault(kind, KindReport()).add(measure)
        except Exception as error:
            yield f"{kind} does not decode: {error!r}"
            continue
        yield from measure.problems


def _repeated(readers: Sequence[tuple[str, ShardReader]]) -> Iterator[Fault]:
    """Keys that came before, by 8 bytes each: millions stay small."""
    shards = np.repeat(np.arange(len(readers)), [len(reader) for _, reader in readers])
    rows = np.concatenate([np.arange(len(reader)) for _, reader in readers]) if readers else shards
    keys = (key for _, reader in readers for key in reader.indexes[0].keys)
    hashes = np.fromiter((int.from_bytes(hashlib.blake2b(k, digest_size=8).digest(), "big") for k in keys), np.uint64)
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
    for place in sorted(order[again].tolist()):
        first = int(order[np.searchsorted(hashes, hashes[place], sorter=order)])
        url, reader = readers[int(shards[place])]
        yield Fault(url, reader.key(int(rows[place])), f"key is already in {readers[int(shards[first])][0]}")


def check_shards(
    urls: str | Path | Sequence[str | Path],
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    cache: ShardCache | None = None,
) -> ShardReport:
    """Read everything once and go on after every fault; `progress` wraps the sample numbers, as tqdm does."""
    shards = expand(urls)
    report = ShardReport(len(shards))
    readers = _open(shards, cache or ShardCache(), report.faults)
    unsound = {fault.shard for fault in report.faults}
    report.readable = [url for url, _ in readers if url not in unsound]
    numbers = iter(progress(range(sum(len(reader) for _, reader in readers))))
    for url, reader in readers:
        for row in range(len(reader)):
            next(numbers)
            problems = _check_sample(reader, row, report)
            report.faults.extend(Fault(url, reader.key(row), problem) for problem in problems)
            report.samples += 1
        reader.close()
    # Past its end, so that a progress bar closes.
    next(numbers, None)
    report.faults.extend(_repeated(readers))
    local = {Path(url): len(reader) for url, reader in readers if not is_remote(url)}
    asked = [Path(url) for url in shards if not is_remote(url)]
    report.faults.extend(Fault(str(path), "", problem) for path, problem in manifest_faults(asked, local))
    return report
