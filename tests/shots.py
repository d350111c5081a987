"""Adaptations for the tests: pairs of every kind, plans of a few steps, and how adapters are compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from diception.annotations import BinaryMask, DepthMap, InstanceMasks, Keypoints, NormalMap
from diception.config import AugmentConfig, FewShotConfig, SamplingConfig
from diception.datasets.folder import PairedFolder
from diception.datasets.synthetic import render_scene

KINDS = ("mask", "labels", "instances", "depth", "normal", "image", "pose")
PAIRS = 6


def write_pairs(root: Path) -> Path:
    """A folder of images, and a folder of targets for every kind."""
    for name in ("images", *KINDS):
        (root / name).mkdir()
    for index in range(PAIRS):
        scene = render_scene(0, index, 64)
        Image.fromarray(scene.image).save(root / "images" / f"{index}.png")
        _targets(root, str(index), scene.image, scene.annotations)
    return root


def _targets(root: Path, name: str, image: np.ndarray, annotations: dict) -> None:
    mask, instances, pose = annotations["mask"], annotations["instances"], annotations["pose"]
    assert isinstance(mask, BinaryMask) and isinstance(instances, InstanceMasks) and isinstance(pose, Keypoints)
    depth, normal = annotations["depth"], annotations["normal"]
    assert isinstance(depth, DepthMap) and isinstance(normal, NormalMap)
    Image.fromarray(mask.mask.astype(np.uint8) * 255).save(root / "mask" / f"{name}.png")
    labels = mask.mask.astype(np.uint8) + 2 * instances.masks.any(axis=0)
    Image.fromarray(np.minimum(labels, 2).astype(np.uint8)).save(root / "labels" / f"{name}.png")
    numbers = (np.arange(1, len(instances) + 1)[:, None, None] * instances.masks).max(axis=0, initial=0)
    Image.fromarray(numbers.astype(np.uint16)).save(root / "instances" / f"{name}.png")
    np.save(root / "depth" / f"{name}.npy", depth.values)
    np.save(root / "normal" / f"{name}.npy", normal.normals)
    Image.fromarray(255 - image).save(root / "image" / f"{name}.png")
    (root / "pose" / f"{name}.json").write_bytes(pose.to_bytes())


def plan(base: Path, pairs: Path, out: Path, kind: str = "mask", **changes) -> FewShotConfig:  # noqa: ANN003
    config = FewShotConfig(
        model=str(base), images=str(pairs / "images"), targets=str(pairs / kind), kind=kind, name="novel", out=str(out)
    )
    config.steps, config.batch_size, config.held_out, config.workers = 3, 2, 2, 0
    config.augment, config.sampling = AugmentConfig(crop=0.5, photometric=0.1), SamplingConfig(1, 1.0)
    for name, value in changes.items():
        assert hasattr(config, name)
        setattr(config, name, value)
    return config


def content(path: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """Metadata and the bytes of every tensor: safetensors writes metadata in no fixed order."""
    with safe_open(path, framework="np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def apart(pairs: Path, root: Path) -> dict[str, str]:
    """The same split, its two parts in folders of their own."""
    shown, held_out = PairedFolder(pairs / "images", pairs / "mask", "mask").split(2, 0)
    folders = {}
    for part, folder in (("", shown), ("val_", held_out)):
        for kind, files in zip(("images", "targets"), zip(*folder.pairs, strict=True), strict=True):
            folders[part + kind] = str(root / (part + kind))
            Path(folders[part + kind]).mkdir()
            for file in files:
                shutil.copy(file, folders[part + kind])
    return folders
