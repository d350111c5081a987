"""A folder of images and a folder of targets, paired by name, to samples."""

from __future__ import annotations

from pathlib import Path

from diception.datasets.check import MEASURES
from diception.datasets.folder import PairedFolder, TargetOptions
from diception.datasets.sample import Sample


def read_names(path: Path) -> tuple[str, ...]:
    """Names of labels, one a line, the first is the background's; ValueError where there is none or one is empty."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if not names or not all(names):
        raise ValueError(f"{path}: must hold one name a line, that of the background first, and no empty line")
    return names


class FolderData:
    """Pairs of any kind of target; what `diception shards check` would find is refused."""

    def __init__(
        self,
        images: Path,
        targets: Path,
        kind: str,
        options: TargetOptions | None = None,
        target_suffix: str = "",
    ) -> None:
        """`target_suffix`: what a target's name has more than its image's."""
        options = options or TargetOptions()
        allowed = {"invert": ("mask",), "category": ("mask", "instances"), "labels": ("labels",)}
        for name, kinds in allowed.items():
            if getattr(options, name) and kind not in kinds:
                flag = "names" if name == "labels" else name
                raise ValueError(f"--{flag} is for --kind {' and '.join(kinds)}, not for {kind}")
        self.pairs = PairedFolder(images, targets, kind, options, target_suffix)
        self.alone = self.pairs.unpaired
        self.made_by = f"folder {kind} {images.name} {targets.name} suffix {target_suffix!r} {options}"

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, i: int) -> str:
        """Key of pair i: the name of its image."""
        return self.pairs.keys[i]

    def __getitem__(self, i: int) -> Sample:
        """CorruptSample or ValueError naming the file where one does not decode or marks nothing."""
        sample, kind = self.pairs.read(i), self.pairs.kind
        if problems := MEASURES[kind][1](sample.annotations[kind]).problems:
            raise ValueError(f"{self.pairs.pairs[i][1]}: {'; '.join(problems)}")
        return sample
