"""`shards check` on converted sets: what differs from the manifest is named; the report and the panel."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from tars import faults, forge, one_fault, png, write

from diception.cli import main
from diception.datasets.check import check_shards
from diception.datasets.convert import Conversion, convert
from diception.datasets.index import index_path
from diception.datasets.preview import save_preview
from diception.datasets.synthetic import SyntheticScenes


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    convert(SyntheticScenes(5, 16), tmp_path, Conversion(samples_per_shard=2, workers=0))
    assert check_shards(str(tmp_path / "*.tar")).ok
    return tmp_path


def edit(folder: Path, field: str, value: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][1][field] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("sha256", "0" * 64, "other bytes than manifest.json says"),
        ("bytes", 7, "bytes, manifest.json says 7"),
        ("samples", 9, "has 2 samples, manifest.json says 9"),
    ],
)
def test_a_shard_that_differs_from_its_manifest_is_named(converted: Path, field: str, value: object, part: str) -> None:
    edit(converted, field, value)
    one_fault(check_shards(str(converted / "*.tar")), "shard-000001.tar", "", part)


def test_shards_missing_from_a_manifest_or_a_folder_are_named(converted: Path) -> None:
    (converted / "shard-000001.tar").unlink()
    one_fault(check_shards(str(converted / "*.tar")), "shard-000001.tar", "", "missing: manifest.json names it")
    forge(converted / "shard-000001.tar", {"k.png": png()})
    index_path(converted / "shard-000001.tar").unlink()
    edit(converted, "name", "../x.tar")
    found = faults(check_shards(str(converted / "*.tar")))
    assert [name for name, _, _ in found] == ["manifest.json", "shard-000001.tar"]
    assert "names '../x.tar'" in found[0][2] and "does not name it" in found[1][2]
    (converted / "manifest.json").write_text("[]")
    one_fault(check_shards(str(converted / "*2.tar")), "manifest.json", "", "not a manifest")


def test_the_command_writes_a_report_and_a_panel(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = converted / "new"
    words = ["shards", "check", str(converted / "*.tar"), "--out", str(out / "r.json"), "--panel", str(out / "p.png")]
    assert main([*words, "--count", "2"]) == 0
    assert "5 samples in 3 shards" in capsys.readouterr().out
    assert json.loads((out / "r.json").read_text())["kinds"]["depth"]["count"] == 5
    with Image.open(out / "p.png") as panel:
        assert panel.width == 1010 and panel.height > 1000
    first = (out / "p.png").read_bytes()
    shards = [str(path) for path in sorted(converted.glob("*.tar"))]
    assert save_preview(shards, out / "q.png", 2) == ["depth", "normal", "instances", "pose"]
    assert (out / "q.png").read_bytes() == first
    save_preview(shards, out / "q.png", 2, seed=1)
    assert (out / "q.png").read_bytes() != first
    edit(converted, "bytes", 1)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1 and "1 faults" in capsys.readouterr().out


def test_labels_and_pictures_are_shown_too(tmp_path: Path) -> None:
    write(tmp_path)
    assert {"labels", "mask"} <= set(save_preview([str(tmp_path / "*.tar")], tmp_path / "p.png", 1))
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, "JPEG")
    with pytest.raises(ValueError, match="can be shown"):
        save_preview([str(forge(tmp_path / "x.tar", {"a.jpg": buffer.getvalue()}))], tmp_path / "p.png")
