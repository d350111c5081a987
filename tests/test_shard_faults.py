"""Shards that are broken or hostile: refused or replaced, with the shard and the sample named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from tars import forge, make_sample, png, write

from diception.annotations.base import MAX_PIXELS
from diception.datasets.images import read_image
from diception.datasets.index import check_key, index_path
from diception.datasets.sample import CorruptSample, Sample
from diception.datasets.shards import ShardReader
from diception.datasets.writer import ShardWriter


@pytest.mark.parametrize("key", ["../a", "/a", "a/../b", "a//b", "", ".", "a.b", "a\\b", "c:d", "a\nb", "x" * 81])
def test_unsafe_keys_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key"), ShardWriter(tmp_path) as writer:
        writer.write(Sample(key, make_sample(0).image))
    assert list(tmp_path.glob("*.tar")) == []


def test_a_tar_with_an_unsafe_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.tar.*\.\./\.\./etc/passwd"):
        ShardReader(forge(tmp_path / "x.tar", {"../../etc/passwd.png": png()}))
    # As a Mac's tar has them.
    with pytest.raises(ValueError, match=r"y\.tar: member '\._b\.png': sample key '' is not allowed"):
        ShardReader(forge(tmp_path / "y.tar", {"a.png": png(), "._b.png": b"", "b.png": png()}))
    assert check_key("a/b-1") == "a/b-1"


def test_errors_name_the_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.tar: no such shard"):
        ShardReader(tmp_path / "none.tar")
    with pytest.raises(ValueError, match=r"no shard matches .*z\*\.tar"):
        ShardReader(str(tmp_path / "z*.tar"))
    (tmp_path / "text.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(ValueError, match=r"text\.tar: not an uncompressed"):
        ShardReader(tmp_path / "text.tar")
    shard = write(tmp_path / "cut", 3).shards[0]
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"shard-000000\.tar: it has 3000 bytes, its index is of a tar of"):
        ShardReader(shard)
    index_path(shard).unlink()
    with pytest.raises(ValueError, match=r"shard-000000\.tar: cut off"):
        ShardReader(shard)
    index_path(shard).write_text('{"version": 99}')
    with pytest.raises(ValueError, match=r"index\.json: not a shard index: version 99"):
        ShardReader(shard)
    with pytest.raises(ValueError, match="cache folder"):
        ShardReader("https://example.org/a.tar")


def test_an_index_cannot_point_outside_its_shard(tmp_path: Path) -> None:
    shard = write(tmp_path, 2).shards[0]
    content = json.loads(index_path(shard).read_text())
    content["sizes"][0][0] = 1 << 40
    index_path(shard).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="points outside"):
        ShardReader(shard)


def test_a_broken_image_names_shard_and_key(tmp_path: Path) -> None:
    image = png((400, 400))
    reader = ShardReader(forge(tmp_path / "x.tar", {"a.png": image[: len(image) // 2], "b.json": b"{}"}))
    with pytest.raises(CorruptSample, match=r"x\.tar: sample 'a': image does not decode") as caught:
        reader.read(0)
    assert (caught.value.place, caught.value.key) == (str(tmp_path / "x.tar"), "a")
    with pytest.raises(CorruptSample, match="sample 'b': no image"):
        reader.read(1)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="at most 100000000 are allowed"):
        read_image(buffer.getvalue())
