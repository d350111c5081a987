"""The pairs of images and targets of an adaptation: opened, split, and the same ones when it goes on."""

from __future__ import annotations

from pathlib import Path

from diception.config import FewShotConfig
from diception.datasets.folder import PairedFolder
from diception.datasets.targets import TargetOptions, check_options, read_names
from diception.model.weights import read_json

STOPPING_SHARE = 5
"""One of so many pairs to train on decides when to stop, where that is asked for."""


def label_names(config: FewShotConfig) -> tuple[str, ...]:
    """Of a label map's values, where a file names them."""
    return read_names(Path(config.names)) if config.names else ()


def check_kind(config: FewShotConfig) -> TargetOptions:
    """How targets are read; ValueError where that does not go with what they are."""
    options = TargetOptions(config.depth_scale, None, config.invert, label_names(config))
    check_options(options, config.kind)
    return options


def open_folders(config: FewShotConfig) -> tuple[PairedFolder, PairedFolder]:
    """Pairs to train on, and pairs to measure on: of folders of their own, or split off.

    Raises:
        ValueError: nothing matches, too few pairs, options that exclude each other, images that are in both.
    """
    options = check_kind(config)

    def opened(images: str, targets: str) -> PairedFolder:
        return PairedFolder(images, targets, config.kind, options, config.target_suffix).without_copies()

    folder = opened(config.images, config.targets)
    if not config.val_images and not config.val_targets:
        if len(folder) < 2:
            raise ValueError(
                f"{config.images} has {len(folder)} pair; at least 2 are needed, one of them to measure on"
            )
        return folder.split(config.held_out or max(1, len(folder) // 3), config.seed)
    if not config.val_images or not config.val_targets:
        raise ValueError("val_images and val_targets go together; one of them is not given")
    if config.held_out:
        raise ValueError(f"held_out is {config.held_out}, but val_images say what is measured on; give one of them")
    held_images = opened(config.val_images, config.val_targets)
    if both := folder.contents() & held_images.contents():
        raise ValueError(f"{len(both)} images of val_images are among those trained on, by their bytes")
    return folder, held_images


def split_for_stopping(pairs: PairedFolder, config: FewShotConfig) -> tuple[PairedFolder, PairedFolder | None]:
    """Pairs to train on, and those that decide when to stop: neither trained on nor reported on."""
    if not config.patience:
        return pairs, None
    if len(pairs) < 2:
        raise ValueError(f"patience needs at least 2 pairs to train on, one of them to decide; there is {len(pairs)}")
    return pairs.split(max(1, len(pairs) // STOPPING_SHARE), config.seed + 1)


def check_same_data(seen: dict[str, str], path: Path) -> None:
    """Refuses to continue with other images or another model: what is measured could have been learned before.

    Raises:
        ValueError: names what differs.
    """
    before = read_json(path) if path.exists() else seen
    differ = [name for name, value in seen.items() if before.get(name) != value]
    if differ:
        raise ValueError(f"{path.parent} holds an adaptation with other {', '.join(differ)}; choose another folder")
