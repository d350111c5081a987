"""The quick start, made small: it runs to its end, its report stands alone, and a second run finds all done."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from diception.annotations import load
from diception.config import SamplingConfig
from diception.inference import Pipeline
from diception.quickstart import QuickstartSettings, run_quickstart
from diception.quickstart.report import _pairs, _score_table


def small_settings(out: Path) -> QuickstartSettings:
    sampling = SamplingConfig(steps=1, guidance_scale=1.0)
    return QuickstartSettings(out, scenes=8, held_out=3, steps=2, adapter_steps=2, adapter_images=4, sampling=sampling)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small quick start that has run once."""
    out = tmp_path_factory.mktemp("quickstart") / "out"
    assert run_quickstart(small_settings(out)) == out / "report.html"
    return out


class Links(HTMLParser):
    """Collects everything that a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(out: Path) -> Links:
    links = Links()
    links.feed((out / "report.html").read_text(encoding="utf8"))
    return links


def test_the_report_is_one_file(finished: Path) -> None:
    page = read_page(finished)
    assert page.targets and all(target.startswith("data:image/") for target in page.targets)
    assert not {"script", "link", "iframe"} & set(page.tags)
    style = re.sub(r"data:image/[^\"]*", "", (finished / "report.html").read_text(encoding="utf8"))
    assert not re.search(r"https?://|file:|url\(|@import", style)


def test_the_report_tells_the_numbers(finished: Path) -> None:
    text = read_page(finished).text
    before, after = (json.loads((finished / f"{name}.json").read_text()) for name in ("before", "after"))
    assert len(before) == len(after) >= 6
    for old, new in zip(before, after, strict=True):
        assert (old["task"], old["protocol"], old["count"]) == (new["task"], new["protocol"], new["count"])
        for score in (old, new):
            assert f"{score['metrics'][score['primary']]:.3f}" in text
    shot = json.loads((finished / "adapter" / "report.json").read_text())
    assert f"{shot['share']:.2%}" in text and shot["share"] <= 0.01
    for score in (shot["before"], shot["after"]):
        assert f"{score['metrics']['iou']:.3f}" in text


def test_the_export_knows_the_new_task_and_answered_in_its_own_process(finished: Path) -> None:
    pipeline = Pipeline.from_pretrained(finished / "model")
    shot = json.loads((finished / "adapter" / "report.json").read_text())
    assert shot["task"]["name"] in pipeline.tasks
    for name, task in pipeline.tasks.items():
        (found,) = [
            path
            for path in (finished / "photo").glob(f"*.{name}.*")
            if path.name.count(".") == 3 and ".rgb." not in path.name
        ]
        kind = {"point_segmentation": "mask"}.get(name, task.kind)
        assert load(kind, found).to_array().size >= 0


def test_a_second_run_does_nothing_anew(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = [path for path in finished.rglob("*") if path.is_file()]
        kept = [path for path in files if path.name not in ("seconds.json", "report.html")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in kept}

    before, seconds = state(), json.loads((finished / "seconds.json").read_text())
    run_quickstart(small_settings(finished))
    assert state() == before
    assert json.loads((finished / "seconds.json").read_text()) == seconds
    assert "Traceback" not in capfd.readouterr().err


def test_another_photograph_is_answered_in_the_same_folder(finished: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "mine.png")
    trained = (finished / "train" / "config.yaml").stat().st_mtime_ns
    run_quickstart(replace(small_settings(finished), photo=tmp_path / "mine.png"))
    names = {path.name.split(".")[0] for path in (finished / "photo").glob("*.rgb.png")}
    assert names == {"mine"} and (finished / "train" / "config.yaml").stat().st_mtime_ns == trained
    with pytest.raises(ValueError, match="other settings"):
        run_quickstart(replace(small_settings(finished), steps=3))


def test_a_task_that_the_model_did_not_know_has_no_number_before(finished: Path, tmp_path: Path) -> None:
    before, after = (json.loads((finished / f"{name}.json").read_text()) for name in ("before", "after"))
    pairs = _pairs([score for score in before if score["task"] != "normal"], after)
    assert [new for _, new in pairs] == after
    for old, new in pairs:
        assert (old is None) == (new["task"] == "normal") and (old is None or old["protocol"] == new["protocol"])
    assert "–" in _score_table(before[1:], after)
