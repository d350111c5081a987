"""Adaptations to targets that are no masks, on rendered scenes: depth before another camera, and pictures relit.

python benchmarks/few_shot_kinds.py --tasks depth normal relight --out runs/kinds

Writes folders of 75 images and targets, learns from 50 and measures on 25, as `diception adapt` does; the same command
goes on where it was stopped. `depth` and `normal` are of scenes before a thermal camera, which the model has never
seen; `relight` paints scenes of domain two as if a lamp to the upper left lit them, from their true normals.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from diception.annotations import DepthMap, NormalMap
from diception.config import FewShotConfig, load_config
from diception.datasets.sample import Sample
from diception.datasets.synthetic import THERMAL, render_scene
from diception.tables import format_table
from diception.training.few_shot import FewShotReport, adapt

COUNT, HELD_OUT, SIZE, SEED = 75, 25, 128, 5
LAMP = np.array([-0.6, 0.6, 0.53], np.float32)
"""Towards the lamp, of length 1: x right, y up, z to the camera."""


@dataclass(frozen=True)
class Kind:
    """A task to learn: what its targets are, and of which scenes."""

    kind: str
    domain: int
    lr: float


KINDS = {
    "depth": Kind("depth", THERMAL, 2e-3),
    "normal": Kind("normal", THERMAL, 2e-3),
    "relight": Kind("image", 2, 2e-3),
}


def relit(scene: Sample) -> np.ndarray:
    """(H, W, 3) uint8: half of the picture's light comes from the lamp."""
    normals = scene.annotations["normal"]
    assert isinstance(normals, NormalMap)
    shade = 0.35 + 0.9 * np.clip(np.tensordot(LAMP, normals.normals, 1), 0, None)
    lit = scene.image * np.where(np.linalg.norm(normals.normals, axis=0) > 0.5, shade, 0.35)[..., None]
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def write(folder: Path, name: str) -> None:
    """`images` and `targets` of one task."""
    for part in ("images", "targets"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(COUNT), desc=f"render {name}", leave=False):
        scene = render_scene(SEED, index, SIZE, KINDS[name].domain)
        Image.fromarray(scene.image).save(folder / "images" / f"{index:03}.png")
        target, found = folder / "targets" / f"{index:03}", scene.annotations.get(name)
        if name == "relight":
            Image.fromarray(relit(scene)).save(f"{target}.png")
        else:
            assert isinstance(found, (DepthMap, NormalMap))
            np.save(f"{target}.npy", found.values if isinstance(found, DepthMap) else found.normals)


def learn(out: Path, name: str, model: str, overrides: list[str]) -> FewShotReport:
    folder, kind = out / name, KINDS[name]
    if not (folder / "run").exists():
        write(folder, name)
    config = load_config("few_shot", [f"lr={kind.lr}", f"held_out={HELD_OUT}", *overrides], FewShotConfig)
    config.model, config.kind, config.name, config.out = model, kind.kind, f"new_{name}", str(folder / "run")
    config.images, config.targets = str(folder / "images"), str(folder / "targets")
    report = adapt(config, lambda items: tqdm(items, leave=False))
    if report is None:
        raise SystemExit("stopped by a signal; the same command goes on")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("runs/kinds"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of all adaptations")
    arguments = parser.parse_intermixed_args()
    for name in arguments.tasks:
        report = learn(arguments.out, name, arguments.model, arguments.overrides)
        rows = [("before", report.before.metrics), ("after", report.after.metrics), *report.after.baselines.items()]
        print(f"{name}: {report.images} images, {report.after.count} held out, {report.seconds['train']:.0f} s")
        print(format_table(rows, list(report.after.metrics)))


if __name__ == "__main__":
    main()
