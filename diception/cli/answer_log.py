"""What `diception predict` has answered into a folder, so that an interrupted command can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diception.jobs import Job


class AnswerLog:
    """The questions whose answers a folder holds, a line of JSON each, so that an interrupted command can go on."""

    def __init__(self, folder: Path, options: dict[str, Any]):
        self.path, self.options = folder / "answers.jsonl", options
        text = self.path.read_text() if self.path.exists() else ""
        self.held: dict[str, dict[str, Any]] = {}
        """Name to the last line about it."""
        for line in text.split("\n"):
            with suppress(ValueError, KeyError, TypeError):  # cut by a kill
                entry = json.loads(line)
                self.held[entry["name"]] = entry

    def holds(self, job: Job) -> bool:
        """Whether the same question was answered with the same options, last of all under this name, and is there."""
        entry = self.held.get(job.name, {})
        files = [self.path.with_name(name) for name in entry.get("files", [])]
        return entry.get("question") == self._question(job) and all(file.is_file() for file in files)

    def forget(self, jobs: Iterable[Job]) -> None:
        """Called before these are answered: files that are half overwritten are nobody's answer."""
        for job in jobs:
            self.held.pop(job.name, None)
        if self.path.exists():
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text("".join(f"{json.dumps(entry)}\n" for entry in self.held.values()))
            partial.replace(self.path)

    def add(self, job: Job, files: Iterable[Path]) -> None:
        """Called when all files of the answer are written."""
        entry = {"name": job.name, "files": [file.name for file in files], "question": self._question(job)}
        with self.path.open("a") as file:
            file.write(f"{json.dumps(entry)}\n")

    def _question(self, job: Job) -> dict[str, Any]:
        question = {name: plain(value) for name, value in vars(job.request).items()}
        question["stamp"] = stamp(job.request.image) if isinstance(job.request.image, Path) else []
        return json.loads(json.dumps(question | self.options))  # as it is read again


def check_names(names: Sequence[str]) -> None:
    """Refuses answers of which one's files would be named as another's: `a.mask` and `a.mask.mask`."""
    known = set(names)
    for name in names:
        parts = name.split(".")
        if shorter := known & {".".join(parts[:end]) for end in range(1, len(parts))}:
            raise ValueError(f"results {min(shorter)!r} and {name!r} would replace each other; rename an image")


def stamp(path: Path) -> list[list[int]]:
    """Sizes and times of a file, or of the weights and settings in a folder: they change when it does."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".json"))
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in found]


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
