"""A folder of images and a folder of targets, paired by name: what a user who adapts the model brings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diception.datasets.images import DECODE_ERRORS, IMAGE_SUFFIXES, read_file, read_image
from diception.datasets.sample import CorruptSample, Sample
from diception.datasets.targets import TARGETS, TargetOptions

SHOWN = 3
"""Names of files that a line lists."""


def _by_stem(
    folder: Path, endings: Collection[str], what: str, suffix: str = ""
) -> tuple[dict[str, Path], dict[Path, str]]:
    """Files by the stem that pairs them, and what is left out with the reason; hidden files are not even that."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    left_out: dict[Path, str] = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if not path.is_file():
            left_out[path] = "is no file"
        elif path.suffix.lower().lstrip(".") not in endings:
            left_out[path] = f"is read as no {what}: {', '.join(endings)} are"
        elif not path.stem.endswith(suffix):
            left_out[path] = f"has no name that ends in {suffix}"
        else:
            stem = path.stem.removesuffix(suffix)
            if stem in found:
                raise ValueError(f"two files of one name in {folder}: {found[stem].name} and {path.name}")
            found[stem] = path
    return found, left_out


def _key_of(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_ +=@,()-]", "_", stem)[:64]


def _examples(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "none"


class PairedFolder:
    """Images and targets with the same file name up to the ending; a Reader."""

    def __init__(
        self,
        images: Path | str,
        targets: Path | str,
        kind: str,
        options: TargetOptions | None = None,
        target_suffix: str = "",
    ) -> None:
        """`target_suffix`: what a target's name has more than its image's ("_mask" for a.jpg and a_mask.png)."""
        if kind not in TARGETS:
            raise ValueError(f"kind {kind!r} is not known, allowed are {', '.join(TARGETS)}")
        self.kind, self.options = kind, options or TargetOptions()
        endings = TARGETS[kind].endings
        pictures, no_pictures = _by_stem(Path(images), IMAGE_SUFFIXES, "image")
        answers, no_answers = _by_stem(Path(targets), endings, f"target of kind {kind}", target_suffix)
        self.pairs = [(pictures[stem], answers[stem]) for stem in sorted(pictures.keys() & answers.keys())]
        self.unpaired = sorted(pictures.keys() ^ answers.keys())
        """Names with an image or a target only."""
        self.left_out = {
            **no_pictures,
            **{path: "has no target of its name" for stem, path in pictures.items() if stem not in answers},
            **no_answers,
            **{path: "has no image of its name" for stem, path in answers.items() if stem not in pictures},
        }
        """Files of both folders that are in no pair, with the reason."""
        self.found = len(self.pairs)
        """Pairs in the folders, of which a split has some."""
        if not self.pairs:
            raise ValueError(
                f"no image in {images} ({len(pictures)}: {_examples(pictures)}) has a target of its name in {targets} "
                f"({len(answers)}: {_examples(answers)}); a {kind} ends in {', '.join(endings)}"
            )
        keys = [_key_of(image.stem) for image, _ in self.pairs]
        self.keys = keys if len(set(keys)) == len(keys) else [f"{key}-{i}" for i, key in enumerate(keys)]

    def __len__(self) -> int:
        return len(self.pairs)

    def kinds(self, i: int) -> frozenset[str]:
        return frozenset((self.kind,))

    def serving(self, kind: str) -> NDArray[np.int64]:
        return np.arange(len(self) if kind == self.kind else 0, dtype=np.int64)

    def read(self, i: int, kinds: Collection[str] | None = None) -> Sample:
        """Decode a pair; CorruptSample, naming the file, where that fails or the two sizes differ."""
        picture, answer = self.pairs[i]
        path = picture
        try:
            image, encoded = read_file(picture)
            sample = Sample(self.keys[i], image, {}, encoded)
            if kinds is None or self.kind in kinds:
                path = answer
                annotation = TARGETS[self.kind].load(answer, sample.size, self.options)
                if annotation.size != sample.size:
                    raise ValueError(f"target has size {annotation.size}, its image {picture} has {sample.size}")
                sample.annotations[self.kind] = annotation
        except DECODE_ERRORS as error:
            reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
            raise CorruptSample(str(path), self.keys[i], reason) from error
        return sample

    def table(self) -> str:
        """How many pairs there are, and what is left out and why: of every folder and reason the first names."""
        groups: dict[tuple[Path, str], list[str]] = {}
        for path, reason in self.left_out.items():
            groups.setdefault((path.parent, reason), []).append(path.name)
        lines = [f"{self.found} pairs of an image and a {self.kind}"]
        for (folder, reason), names in groups.items():
            more = ", ..." if len(names) > SHOWN else ""
            lines.append(f"  left out {len(names)} in {folder}: {', '.join(names[:SHOWN])}{more} ({reason})")
        return "\n".join(lines)

    def split(self, held_out: int, seed: int) -> tuple[PairedFolder, PairedFolder]:
        """(rest, held out): of `held_out` groups of about the same brightness one pair each, by a hash of (seed, name).

        So dark and bright pictures, which often differ in what made them, are in both parts as they are in all.

        Raises:
            ValueError: a number out of range, or an image that does not decode.
        """
        if not 0 < held_out < len(self):
            raise ValueError(f"held_out is {held_out}, allowed is 1 to {len(self) - 1} of {len(self)} pairs")
        hashes = [hashlib.sha256(f"{seed}/{image.stem}".encode()).digest() for image, _ in self.pairs]
        brightness = [float(read_image(image).mean()) for image, _ in self.pairs]
        order = sorted(range(len(self)), key=lambda i: (brightness[i], hashes[i]))
        chosen = {min(group, key=lambda i: hashes[i]) for group in np.array_split(order, held_out)}
        return self.subset([i for i in range(len(self)) if i not in chosen]), self.subset(sorted(map(int, chosen)))

    def first(self, count: int, seed: int) -> PairedFolder:
        """`count` of the pairs, by a hash of (seed, name): those of a smaller count are among those of a larger."""
        if not 0 < count <= len(self):
            raise ValueError(f"{count} pairs are asked for, allowed is 1 to {len(self)}")
        hashes = [hashlib.sha256(f"{seed}/first/{image.stem}".encode()).digest() for image, _ in self.pairs]
        return self.subset(sorted(sorted(range(len(self)), key=lambda i: hashes[i])[:count]))

    def without_copies(self) -> PairedFolder:
        """Of images that are alike to the byte the first by name: a copy must not be measured on what it has taught."""
        kept: dict[str, int] = {}
        copies = {}
        for number, digest in enumerate(self._digests()):
            if kept.setdefault(digest, number) != number:
                copies[self.pairs[number][0]] = f"has the bytes of another, {self.pairs[kept[digest]][0].name}"
        part = self.subset(list(kept.values()))
        part.left_out, part.found = self.left_out | copies, len(part)
        return part

    def contents(self) -> set[str]:
        """Hashes of the images' bytes."""
        return set(self._digests())

    def _digests(self) -> list[str]:
        return [hashlib.sha256(image.read_bytes()).hexdigest() for image, _ in self.pairs]

    def fingerprint(self) -> str:
        """A hash of the names and contents of all pairs, to tell whether two runs saw the same."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            for path in pair:
                digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def subset(self, chosen: Sequence[int]) -> PairedFolder:
        """The pairs of these numbers."""
        part = object.__new__(PairedFolder)
        part.__dict__.update(self.__dict__)
        part.pairs, part.keys = [self.pairs[i] for i in chosen], [self.keys[i] for i in chosen]
        return part
