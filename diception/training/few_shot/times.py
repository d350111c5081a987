"""How long the parts of an adaptation take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diception.model.weights import read_json, write_json


class Times:
    """Wall time of every part, in seconds; of what goes on after an interruption, with all the time before it."""

    def __init__(self, folder: Path):
        """`folder`: of the adaptation; that of trainings is kept there."""
        self.seconds: dict[str, float] = {}
        self.file = folder / "times.json"

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Within the block a part is done from its beginning."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = time.perf_counter() - start

    @contextmanager
    def of_training(self, part: str) -> Iterator[None]:
        """Within the block a part begins or goes on; what a process that was killed took is lost."""
        before = read_json(self.file) if self.file.exists() else {}
        try:
            with self.of(part):
                yield
        finally:
            self.seconds[part] += before.get(part, 0.0)
            write_json(self.file, before | {part: self.seconds[part]})
