"""Folders that are adapted to: masks of every sort, too few images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shots import PAIRS, plan

from diception.cli import main
from diception.datasets.folder import PairedFolder
from diception.datasets.synthetic import render_scene
from diception.training.few_shot import adapt


def box(index: int) -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 20 : 40 + index] = 255
    return mask


def palette(mask: np.ndarray) -> Image.Image:
    picture = Image.fromarray((mask > 0).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    return picture


MASKS = {
    "empty": (lambda mask: Image.fromarray(mask * 0), "all 4 targets to train on are one plain colour"),
    "full": (lambda mask: Image.fromarray(mask * 0 + 255), "all 4 targets to train on are one plain colour"),
    "smaller": (lambda mask: Image.fromarray(mask[:32]), "target has size (32, 64), its image"),
    "in alpha": (lambda mask: Image.fromarray(np.dstack([mask * 0 + 255] * 3 + [mask])), "alpha channel that varies"),
    "opaque": (lambda mask: Image.fromarray(np.dstack([mask] * 3 + [mask * 0 + 255])), ""),
    "16 bits": (lambda mask: Image.fromarray(mask.astype(np.uint16) * 200), ""),
    "palette": (palette, ""),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_sort_are_read_or_refused_in_one_line(
    base: Path,
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, message = MASKS[name]
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for index in range(PAIRS):
        Image.fromarray(render_scene(0, index, 64).image).save(tmp_path / "images" / f"{index}.png")
        make(box(index)).save(tmp_path / "masks" / f"{index}.png")
    (tmp_path / "images" / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    folders = ["--images", str(tmp_path / "images"), "--targets", str(tmp_path / "masks"), "--out"]
    options = ["--model", str(base), "--name", "new", "--held-out", "2", "--steps", "1", "--cached", "1"]
    status = main(["adapt", *folders, str(tmp_path / "out"), *options])
    said = capsys.readouterr()
    assert "left out 1" in said.out and "film.mp4" in said.out
    if message:
        assert status == 2 and message in said.err and len(said.err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
    else:
        assert status == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        held_out = PairedFolder(tmp_path / "images", tmp_path / "masks", "mask").split(2, 0)[1]
        shares = [(20 + int(key)) * 20 / 64**2 for key in held_out.keys]
        assert report["after"]["baselines"]["everything"]["iou"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(("count", "message"), [(0, "(0: none)"), (1, "has 1 pair; at least 2")])
def test_too_few_images_are_refused(
    base: Path,
    pairs: Path,
    tmp_path: Path,
    count: int,
    message: str,
) -> None:
    for part in ("images", "mask"):
        (tmp_path / part).mkdir()
        for index in range(count):
            (tmp_path / part / f"{index}.png").write_bytes((pairs / part / f"{index}.png").read_bytes())
    with pytest.raises(ValueError) as refused:
        adapt(plan(base, tmp_path, tmp_path / "out", held_out=0))
    assert message in str(refused.value) and not (tmp_path / "out").exists()
