"""COCO's compressed run lengths: read and checked at once, painted only where and as finely as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diception.annotations.base import Size

FILL_COST = 150
"""To fill one run takes as long as to sum up so many pixels."""


@dataclass(frozen=True, eq=False)
class Runs:
    """One stored mask as runs of pixels, column after column."""

    size: Size
    starts: NDArray[np.int64]
    """(n,) first pixel of each run inside the mask, counted down the columns."""
    ends: NDArray[np.int64]
    """(n,) the pixel after its last."""

    @property
    def area(self) -> int:
        return int((self.ends - self.starts).sum())

    def paint(self, rows: NDArray[np.int64], columns: NDArray[np.int64], canvas: NDArray[np.bool_]) -> bool:
        """Sets the pixels of an empty canvas (len(rows), len(columns)) whose stored row and column lie in the mask.

        Rows and columns are sorted, in either direction. False: there is no such pixel.
        """
        if not len(self.starts):
            return False
        height = self.size[0]
        first, last = int(self.starts[0]) // height, int(self.ends[-1] - 1) // height
        across = _within(columns, first, last)
        inside = self._columns(first, last)
        chosen = inside.take(columns[across] - first, axis=0)
        touched = np.flatnonzero(chosen.any(axis=0))
        if not len(touched):
            return False
        down = _within(rows, int(touched[0]), int(touched[-1]))
        part = chosen.take(rows[down], axis=1).T
        canvas[down, across] = part
        return bool(part.any())

    def _columns(self, first: int, last: int) -> NDArray[np.bool_]:
        """(last + 1 - first, H), the columns of the mask; those outside are empty."""
        height = self.size[0]
        inside = np.zeros((last - first + 1) * height, np.bool_)
        starts, ends = self.starts - first * height, self.ends - first * height
        if len(starts) * FILL_COST < len(inside):
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                inside[start:end] = True
        else:
            # What changes at each pixel, summed up.
            change = np.zeros(len(inside) + 1, np.int8)
            change[starts] = 1
            change[ends] -= 1
            inside = np.cumsum(change[:-1], dtype=np.int8).view(np.bool_)
        return inside.reshape(-1, height)


def _within(places: NDArray[np.int64], first: int, last: int) -> slice:
    """Where sorted places lie in first to last."""
    found = np.flatnonzero((places >= first) & (places <= last))
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def read_runs(text: str, size: Size) -> Runs:
    """The runs of COCO's compressed text; ValueError where they do not fill the size exactly.

    From the fourth on, a number is the difference from the length two before it.
    """
    numbers, pixels = _numbers(text), size[0] * size[1]
    # Without larger ones, of which there are no more than characters, no sum overflows.
    if (longest := int(np.abs(numbers).max())) > pixels:
        raise ValueError(f"a run length changes by {longest} pixels, {size[0]} x {size[1]} has {pixels}")
    lengths = numbers.copy()
    lengths[1::2] = np.cumsum(numbers[1::2])
    lengths[2::2] = np.cumsum(numbers[2::2])
    ends = np.cumsum(lengths)
    if lengths.min() < 0 or lengths.max() > pixels or ends[-1] != pixels:
        raise ValueError(f"run lengths of {int(ends[-1])} pixels do not fill {size[0]} x {size[1]}")
    filled = lengths[1::2] > 0
    return Runs(size, ends[0:-1:2][filled], ends[1::2][filled])


def _numbers(text: str) -> NDArray[np.int64]:
    """Six bits a character: five of a number, the lowest first, and one that says that it goes on."""
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError(f"run lengths of {len(codes)} characters are cut off or hold characters that are not allowed")
    firsts = np.concatenate([[0], np.flatnonzero((codes & 32) == 0)[:-1] + 1])
    digits = np.diff(np.append(firsts, len(codes)))
    if digits.max() > 12:
        raise ValueError(f"a run length has {digits.max()} digits, at most 12 are allowed")
    place = np.arange(len(codes)) - np.repeat(firsts, digits)
    numbers = np.add.reduceat((codes & 31) << (5 * place), firsts)
    negative = (codes[firsts + digits - 1] & 16) > 0
    return np.where(negative, numbers - (np.int64(1) << (5 * digits)), numbers)


@dataclass(frozen=True, eq=False)
class StoredMasks:
    """Instances as they lie in a shard, and which rows and columns of them are meant: nothing is painted yet."""

    runs: list[Runs]
    categories: tuple[str, ...]
    scores: NDArray[np.float32] | None
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    whole: bool = True
    """False: what is empty is dropped."""

    def paint(self) -> dict[str, Any]:
        """The fields of the instances."""
        masks = np.zeros((len(self.runs), len(self.rows), len(self.columns)), bool)
        painted = zip(self.runs, masks, strict=True)
        seen = np.array([runs.paint(self.rows, self.columns, canvas) for runs, canvas in painted], bool)
        fields = {"masks": masks, "categories": self.categories, "scores": self.scores}
        return fields if self.whole or seen.all() else select_masks(fields, np.flatnonzero(seen))


def select_masks(fields: dict[str, Any], indices: NDArray[np.int64]) -> dict[str, Any]:
    """The fields of some of the instances."""
    scores = None if fields["scores"] is None else fields["scores"][indices]
    categories = tuple(fields["categories"][i] for i in indices)
    return {"masks": fields["masks"][indices], "categories": categories, "scores": scores}
