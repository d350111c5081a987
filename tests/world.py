"""A folder with a small model, pictures good and bad, shards, pairs and configs; commands on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from small import make_model

from diception.annotations import BinaryMask
from diception.datasets.synthetic import render_scene
from diception.model.checkpoint import save_model
from diception.tasks import known_tasks


def write_world(root: Path, shards: Path) -> Path:
    """Fills an empty folder, with a copy of the folder of shards."""
    model = make_model()
    model.settings.tasks = [task.as_dict() for task in known_tasks()]
    save_model(model, root / "model")
    (root / "shards").mkdir()
    for path in shards.iterdir():
        shutil.copy(path, root / "shards")
    _pictures(root)
    _pairs(root)
    (root / "no.tar").write_bytes(b"this is no tar" * 100)
    (root / "adapted").mkdir()
    (root / "adapted" / "adapter.safetensors").touch()
    (root / "no.yaml").write_text("steps: [1, 2\n")
    (root / "train.yaml").write_text(
        json.dumps(
            {
                "run": str(root / "out"),
                "steps": 1,
                "batch_size": 2,
                "validate_every": 0,
                "model": {"base": str(root / "model")},
                "data": {
                    "size": 64,
                    "workers": 0,
                    "sources": [{"name": "a", "shards": str(root / "shards" / "*.tar"), "tasks": {"depth": 1.0}}],
                },
            }
        )
    )
    return root


def _pictures(root: Path) -> None:
    scene = render_scene(0, 0, 64)
    Image.fromarray(scene.image[:40]).save(root / "good.png")
    Image.fromarray(scene.image).save(root / "good.jpg")
    whole = (root / "good.jpg").read_bytes()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "text.jpg").write_text("no picture")
    (root / "empty").mkdir()


def _pairs(root: Path) -> None:
    for folder in ("images", "masks", "other", "broken"):
        (root / folder).mkdir()
    for index in range(5):
        scene = render_scene(0, index, 64)
        mask = scene.annotations["mask"]
        assert isinstance(mask, BinaryMask)
        Image.fromarray(scene.image).save(root / "images" / f"{index}.png")
        Image.fromarray(scene.image).save(root / "broken" / f"{index}.png")
        Image.fromarray(mask.mask.astype(np.uint8) * 255).save(root / "masks" / f"{index}.png")
        Image.fromarray(mask.mask.astype(np.uint8) * 255).save(root / "other" / f"x{index}.png")
    # One of five is cut off, whichever side of the split it falls on: all others are whole.
    data = (root / "broken" / "3.png").read_bytes()
    (root / "broken" / "3.png").write_bytes(data[: len(data) // 2])


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*")}


def command(text: str, root: Path) -> list[str]:
    return [word.replace("ROOT", str(root)) for word in text.split()]


PREDICT = "predict --model ROOT/model --out ROOT/out --steps 1"
