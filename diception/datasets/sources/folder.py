"""A folder of images and a folder of targets, paired by name, to samples."""

from __future__ import annotations

from pathlib import Path

from diception.datasets.check import MEASURES
from diception.datasets.folder import PairedFolder
from diception.datasets.sample import Sample
from diception.datasets.targets import TargetOptions, check_options


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
        check_options(options, kind)
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
