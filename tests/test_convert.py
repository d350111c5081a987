"""Conversion: the same shards and manifest whatever the workers and however often it is killed; refusals are named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diception.annotations import BinaryMask
from diception.datasets.convert import Conversion, convert
from diception.datasets.sample import Sample
from diception.datasets.shards import ShardReader
from diception.datasets.synthetic import SyntheticScenes

SLOW = """
import sys, time
from diception.datasets.convert import Conversion, convert
from diception.datasets.synthetic import SyntheticScenes

class Slow(SyntheticScenes):
    def __getitem__(self, i):
        time.sleep(0.02)
        if i % 7 == 3:
            raise ValueError("not this one")
        return super().__getitem__(i)

convert(Slow(40, 16), sys.argv[1], Conversion(5, workers=2, max_refused=1.0))
"""


class Numbers:
    """Flat pictures; every seventh cannot be read."""

    made_by = "numbers"

    def __init__(self, count: int, bad: int = 7, first: int = 0) -> None:
        self.count, self.bad, self.first = count, bad, first

    def __len__(self) -> int:
        return self.count

    def key(self, i: int) -> str:
        return f"n{i + self.first:03d}"

    def __getitem__(self, i: int) -> Sample:
        if i % self.bad == self.bad - 1:
            raise OSError(f"n{i:03d}.png is broken")
        image = np.full((9, 11, 3), i, np.uint8)
        return Sample(self.key(i), image, {"mask": BinaryMask(image[..., 0] % 2 == 0)})


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_any_number_of_workers_gives_the_same_folder(tmp_path: Path) -> None:
    for workers in (0, 1, 2):
        convert(Numbers(40), tmp_path / str(workers), Conversion(6, workers, licence="CC0"))
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")
    reader = ShardReader(str(tmp_path / "2" / "*.tar"))
    assert [reader.key(i) for i in range(len(reader))] == [f"n{i:03d}" for i in range(40) if i % 7 != 6]


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    told: list[int] = []
    manifest = convert(Numbers(40), tmp_path, Conversion(6, 0, source="a test", licence="CC0"), told.append)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest and told == list(range(1, 41))
    assert (manifest["samples"], manifest["annotations"]) == (35, {"mask": 35})
    assert (manifest["source"], manifest["licence"], manifest["made_by"]) == ("a test", "CC0", "numbers")
    assert [one["key"] for one in manifest["refused"]] == [f"n{i:03d}" for i in range(40) if i % 7 == 6]
    assert "n006.png is broken" in manifest["refused"][0]["reason"]
    for shard in manifest["shards"]:
        data = (tmp_path / shard["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])


def test_too_many_refusals_stop_it_and_it_goes_on_later(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"11 samples are refused, at most 1\.0% may be; the first: n001: n001"):
        convert(Numbers(100, bad=2), tmp_path, Conversion(6, 0))
    manifest = convert(Numbers(100, bad=2), tmp_path, Conversion(6, 0, max_refused=0.1))
    assert manifest["samples"] == 50 and len(manifest["refused"]) == 50


class Failing(Numbers):
    """The file system fails at one sample, as long as there is a file that says so."""

    def __init__(self, count: int, sign: Path, error: Exception) -> None:
        super().__init__(count)
        self.sign, self.error = sign, error

    def __getitem__(self, i: int) -> Sample:
        if i == 15 and self.sign.exists():
            raise OSError("cannot be read") from self.error
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_what_fails_for_a_moment_is_tried_again(tmp_path: Path, workers: int, error: Exception) -> None:
    (tmp_path / "sign").touch()
    data = Failing(40, tmp_path / "sign", error)
    with pytest.raises(OSError, match="^n015: cannot be read$"):
        convert(data, tmp_path / "out", Conversion(6, workers))
    (tmp_path / "sign").unlink()
    convert(data, tmp_path / "out", Conversion(6, workers))
    convert(Numbers(40), tmp_path / "whole", Conversion(6))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_conversion_without_a_sample_and_shares_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of 6 samples of numbers could be written; the first: n000: n000\.png"):
        convert(Numbers(6, bad=1), tmp_path, Conversion(6, 0))
    with pytest.raises(ValueError, match="none of 0 samples of numbers could be written$"):
        convert(Numbers(0), tmp_path, Conversion(6, 0))
    assert not list(tmp_path.glob("[!.]*"))
    for share in (-0.1, 1.5, 7, float("nan")):
        with pytest.raises(ValueError, match=f"max_refused is {share}, allowed is 0 to 1"):
            Conversion(max_refused=share)


class Stop(Exception):
    """An interruption."""


def test_an_interrupted_conversion_goes_on_with_the_same_list_only(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 13:
            raise Stop

    with pytest.raises(Stop):
        convert(Numbers(20), tmp_path, Conversion(6, 0), interrupt)
    for changed, key in ((Numbers(20, first=1), "n000"), (Numbers(20, first=-1), "n-01"), (Numbers(5), "n005")):
        with pytest.raises(ValueError, match=rf"shard-000000.tar was not made from samples 0 to 5 .*{key}"):
            convert(changed, tmp_path, Conversion(6, 0))
    assert convert(Numbers(25), tmp_path, Conversion(6, 0))["samples"] == 22


def test_an_image_is_stored_as_the_bytes_it_came_in(tmp_path: Path) -> None:
    from diception.datasets.images import read_file

    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=60)
    image, encoded = read_file(tmp_path / "a.jpg")
    assert encoded == ("jpg", (tmp_path / "a.jpg").read_bytes())
    Image.fromarray(noise).save(tmp_path / "turned.jpg", exif=_turned())
    image, encoded = read_file(tmp_path / "turned.jpg")
    assert encoded is None and image.shape == (30, 20, 3)
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.png")
    assert read_file(tmp_path / "grey.png")[1] is None


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_killed_and_started_again_it_ends_the_same(tmp_path: Path) -> None:
    def start(folder: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path / folder)], start_new_session=True)

    assert start("whole").wait(120) == 0
    for wanted in (1, 4):
        process = start("killed")
        while not (tmp_path / "killed" / f"shard-{wanted:06d}.tar").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "manifest.json").exists()
        # As a kill in the middle of writing them leaves them.
        for name in (f"shard-{wanted:06d}.index.json", "manifest.json"):
            (tmp_path / "killed" / f".{name}.0123456789ab.tmp").touch()
        (tmp_path / "killed" / f"shard-{wanted:06d}.index.json").unlink(missing_ok=True)
    assert start("killed").wait(120) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(json.loads((tmp_path / "whole" / "manifest.json").read_text())["refused"]) == 6


def test_scenes_are_raw_data(tmp_path: Path) -> None:
    manifest = convert(SyntheticScenes(3, 16), tmp_path, Conversion(workers=0))
    assert manifest["samples"] == 3 and manifest["made_by"].startswith("synthetic domain 1 size 16")
