"""Raw data sets to shards: by several processes, resumable, every refused sample named, with a manifest."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

from diception.datasets.files import remove_leftovers, write_atomically
from diception.datasets.images import DECODE_ERRORS, ImageFormat
from diception.datasets.sample import CorruptSample, Sample
from diception.datasets.shards import KIND_OF_SUFFIX
from diception.datasets.writer import ShardWriter, encode_sample
from diception.lock import only_writer

SMALL = 1000
"""Below so many samples the share of refused ones is judged as if there were so many."""


class RawData(Protocol):
    """A data set as its publisher lays it out, sample by number: processes share the work, and it goes on anywhere."""

    @property
    def made_by(self) -> str:
        """Says what is converted and how; a folder of shards takes one such description only."""
        ...

    def __len__(self) -> int: ...

    def key(self, i: int, /) -> str:
        """Key of sample i, without reading it."""
        ...

    def __getitem__(self, i: int, /) -> Sample:
        """ValueError (or another of DECODE_ERRORS) where the sample cannot be used."""
        ...


@dataclass(frozen=True)
class Conversion:
    """How samples are written, and what the manifest says of them."""

    samples_per_shard: int = 1000
    workers: int = 2
    """Processes; 0 converts in this one."""
    image_format: ImageFormat = "jpg"
    """For images that cannot be stored as the bytes they came in."""
    max_refused: float = 0.01
    """Share of samples that may be refused before the conversion stops."""
    source: str = ""
    """Where the data is from, for the manifest."""
    licence: str = ""
    """Its terms, for the manifest."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_refused <= 1:
            raise ValueError(f"max_refused is {self.max_refused}, allowed is 0 to 1 (a share)")


class _Encoded(Dataset[tuple[str, dict[str, bytes] | str | OSError]]):
    """(key, members), or (key, reason) where a sample is refused, or (key, error) where the next try may succeed."""

    def __init__(self, data: RawData, image_format: ImageFormat) -> None:
        self.data = data
        self.image_format: ImageFormat = image_format

    def __getitem__(self, i: int) -> tuple[str, dict[str, bytes] | str | OSError]:
        try:
            sample = self.data[i]
            return sample.key, encode_sample(sample, self.image_format)
        except DECODE_ERRORS as error:
            if _passes(error):  # not raised: what a worker raises arrives with its whole traceback as text
                return self.data.key(i), OSError(f"{self.data.key(i)}: {error or type(error).__name__}")
            reason = error.reason if isinstance(error, CorruptSample) else str(error)
            return self.data.key(i), reason or type(error).__name__


def _passes(error: BaseException | None) -> bool:
    """Whether the next try may succeed: memory or a file system failed, not the bytes of a sample."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.ENOENT):
            return True
        error = error.__cause__
    return False


def convert(
    data: RawData, folder: Path | str, options: Conversion, progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """Write all samples of a data set; run again, it goes on after the last complete shard.

    Args:
        progress: is told the number of samples that are done.

    Returns:
        The manifest, as written beside the shards.

    Raises:
        OSError: memory or the file system failed; the complete shards stay, and the next call goes on after them.
        ValueError: more than the allowed share of samples is refused, the first are named; none can be written; or the
            data has another list of samples than the complete shards were made from.
    """
    with only_writer(Path(folder)):
        writer = ShardWriter(folder, options.samples_per_shard, "shard", options.image_format, data.made_by)
        _check_listing(data, writer)
        refused = _write(data, writer, options, progress)
    if not writer.indexes:
        raise ValueError(f"none of {len(data)} samples of {data.made_by} could be written{_listed(refused)}")
    manifest = _manifest(writer, refused, options)
    path, text = writer.folder / "manifest.json", json.dumps(manifest, indent=1).encode() + b"\n"
    remove_leftovers(path)
    if not path.exists() or path.read_bytes() != text:
        write_atomically(path, text)
    return manifest


def _write(
    data: RawData, writer: ShardWriter, options: Conversion, progress: Callable[[int], object] | None
) -> list[tuple[str, str]]:
    """Writes what the complete shards lack; (key, reason) of all that was ever refused."""
    # Ordered and bounded, whatever the number of workers.
    encoded = DataLoader(
        _Encoded(data, options.image_format),
        batch_size=None,
        sampler=range(writer.done, len(data)),
        num_workers=options.workers,
        collate_fn=_as_it_is,
        prefetch_factor=16 if options.workers else None,
    )
    refused = [one for index in writer.indexes for one in index.refused]
    with writer:
        for number, (key, members) in enumerate(encoded, writer.done + 1):
            if isinstance(members, OSError):
                raise members
            if isinstance(members, str):
                writer.refuse(key, members)
                refused.append((key, members))
                _check_refused(refused, max(number, SMALL), options.max_refused)
            else:
                writer.add(key, members)
            if progress is not None:
                progress(number)
    return refused


def _as_it_is(item: Any) -> Any:
    return item


def _check_listing(data: RawData, writer: ShardWriter) -> None:
    """Each complete shard must account for the samples that the data lists in its place, written or refused."""
    start = 0
    for number, index in enumerate(writer.indexes):
        stop = start + len(index) + len(index.refused)
        listed = {data.key(i) for i in range(start, min(stop, len(data)))}
        stored = {index.key(row) for row in range(len(index))} | {key for key, _ in index.refused}
        if listed != stored:
            raise ValueError(
                f"{writer.path(number)} was not made from samples {start} to {stop - 1} of these {len(data)}: the list "
                f"differs in {min(listed ^ stored)!r}; choose another folder, or remove the shards"
            )
        start = stop


def _check_refused(refused: list[tuple[str, str]], judged: int, allowed: float) -> None:
    if len(refused) > allowed * judged:
        raise ValueError(f"{len(refused)} samples are refused, at most {allowed:.1%} may be{_listed(refused)}")


def _listed(refused: list[tuple[str, str]]) -> str:
    return "; the first: " * bool(refused) + "; ".join(f"{key}: {reason}" for key, reason in refused[:10])


def _manifest(writer: ShardWriter, refused: list[tuple[str, str]], options: Conversion) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    for index in writer.indexes:
        counts = {kind: int(index.has([suffix]).sum()) for suffix, kind in KIND_OF_SUFFIX.items()}
        kinds.update({kind: count for kind, count in counts.items() if count})
    shards = [
        {"name": writer.path(i).name, "samples": len(index), "bytes": index.tar_size, "sha256": index.sha256}
        for i, index in enumerate(writer.indexes)
    ]
    return {
        "version": 1,
        "made_by": writer.made_by,
        "source": options.source,
        "licence": options.licence,
        "samples": sum(len(index) for index in writer.indexes),
        "bytes": sum(index.tar_size for index in writer.indexes),
        "annotations": dict(sorted(kinds.items())),
        "shards": shards,
        "refused": [{"key": key, "reason": reason} for key, reason in refused],
    }
