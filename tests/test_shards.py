"""Shards: round trip, random access, resumable and atomic writing, and clear errors for everything broken."""

from __future__ import annotations

import multiprocessing
import pickle
import tarfile
import threading
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from tars import forge, make_sample, png, write

from diception.annotations import KINDS
from diception.datasets.files import write_atomically
from diception.datasets.images import read_image
from diception.datasets.index import ShardIndex, index_path, scan
from diception.datasets.sample import CorruptSample, Sample
from diception.datasets.shards import ShardReader
from diception.datasets.urls import expand
from diception.datasets.writer import ShardWriter, write_samples


def test_what_is_written_is_read(tmp_path: Path) -> None:
    reader = write(tmp_path)
    assert len(reader) == 7 and len(reader.shards) == 3
    for i in (6, 0, 3, 2):
        wanted, found = make_sample(i), reader.read(i)
        assert found.key == wanted.key == reader.key(i)
        assert np.array_equal(found.image, wanted.image)
        assert found.annotations.keys() == wanted.annotations.keys() == reader.kinds(i)
        for kind, annotation in wanted.annotations.items():
            # What a kind keeps in its bytes is tested with the kind; a shard must add and lose nothing.
            kept = KINDS[kind].from_bytes(annotation.to_bytes())
            assert found.annotations[kind].to_bytes() == kept.to_bytes()
        assert found.annotations["mask"].category == "crack"  # pyright: ignore[reportAttributeAccessIssue]
        assert found.annotations["labels"].names == ("none", "a", "b")  # pyright: ignore[reportAttributeAccessIssue]


def test_jpg_is_close_and_webdataset_reads_the_same_bytes(tmp_path: Path) -> None:
    smooth = np.stack(np.meshgrid(np.arange(64), np.arange(48), [90])[:2], -1)[:, :, 0].astype(np.uint8) * 3
    image = np.dstack([smooth, smooth[..., :1]])
    write_samples([Sample("a/b", image)], ShardWriter(tmp_path))
    reader = ShardReader(tmp_path / "shard-000000.tar")
    assert np.abs(reader.read(0).image.astype(int) - image).mean() < 2
    stored = next(iter(webdataset.WebDataset(str(reader.shards[0]), shardshuffle=False)))  # pyright: ignore
    assert stored["__key__"] == "a/b" == reader.key(0)
    assert stored["jpg"] == reader.read_member(0, 0, "jpg")


def test_only_the_wanted_kinds_are_decoded(tmp_path: Path) -> None:
    good = make_sample(0)
    members = {"k.png": png(), "k.depth.npy": good.annotations["depth"].to_bytes(), "k.normal.png": b"broken"}
    reader = ShardReader(forge(tmp_path / "x.tar", members))
    assert reader.kinds(0) == {"depth", "normal"}
    assert set(reader.read(0, ("depth",)).annotations) == {"depth"}
    assert reader.read(0, ()).annotations == {}
    with pytest.raises(CorruptSample, match=r"x\.tar: sample 'k'"):
        reader.read(0)


def test_index_equals_a_scan_and_is_not_needed(tmp_path: Path) -> None:
    reader = write(tmp_path)
    saved = ShardIndex.load(index_path(reader.shards[0]))
    scanned = scan(reader.shards[0])
    assert saved.suffixes == scanned.suffixes and saved.tar_size == scanned.tar_size
    for name in ("keys", "offsets", "sizes"):
        assert np.array_equal(getattr(saved, name), getattr(scanned, name))
    for shard in reader.shards:
        index_path(shard).unlink()
    assert np.array_equal(ShardReader(str(tmp_path / "*.tar")).read(5).image, make_sample(5).image)


def _replace_often(path: Path) -> None:
    for _ in range(50):
        write_atomically(path, b"a" * 100_000)


def test_writers_of_one_file_do_not_meet_and_leave_nothing(tmp_path: Path) -> None:
    writers = [threading.Thread(target=_replace_often, args=(tmp_path / "x",)) for _ in range(4)]
    failed: list[object] = []
    hook, threading.excepthook = threading.excepthook, failed.append
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    threading.excepthook = hook
    assert not failed and [path.name for path in tmp_path.iterdir()] == ["x"]
    (tmp_path / "folder").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", b"a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x"]


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first, same, fewer = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", count=6)
    assert first.fingerprint() == same.fingerprint() != fewer.fingerprint()
    changed = ShardReader(first.urls[::-1])
    assert changed.fingerprint() != first.fingerprint()


def test_serving_lists_the_samples_of_a_kind(tmp_path: Path) -> None:
    samples = [make_sample(i) for i in range(6)]
    for sample in samples[::2]:
        del sample.annotations["depth"]
    write_samples(samples, ShardWriter(tmp_path, 4))
    reader = ShardReader(str(tmp_path / "*.tar"))
    assert reader.serving("depth").tolist() == [1, 3, 5]
    assert reader.serving("mask").tolist() == list(range(6))
    assert reader.serving("pose").tolist() == [] == reader.serving("nonsense").tolist()


def test_same_samples_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    for shard in sorted((tmp_path / "a").iterdir()):
        assert shard.read_bytes() == (tmp_path / "b" / shard.name).read_bytes()
    # The header of a member is one block: nothing in it needs an extended one.
    with tarfile.open(tmp_path / "a" / "shard-000000.tar") as tar:
        assert all(member.offset_data == member.offset + 512 and not member.pax_headers for member in tar)


def test_writing_goes_on_after_the_last_complete_shard(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def interrupted():
        for i in range(10):
            if i == 8:
                raise Stop
            yield make_sample(i)

    with pytest.raises(Stop):
        write_samples(interrupted(), ShardWriter(tmp_path / "a", 3, made_by="x"))
    left = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert left == [f"shard-00000{i}.{end}" for i in (0, 1) for end in ("index.json", "tar")]
    # A shard whose index is lost (stopped between the two renames) is written again.
    index_path(tmp_path / "a" / "shard-000001.tar").unlink()
    writer = ShardWriter(tmp_path / "a", 3, made_by="x")
    assert writer.done == 3
    told: list[int] = []
    assert write_samples(map(make_sample, range(writer.done, 10)), writer, told.append) == 10
    assert told == list(range(4, 11))
    write_samples(map(make_sample, range(10)), ShardWriter(tmp_path / "b", 3, made_by="x"))
    for path in sorted((tmp_path / "b").iterdir()):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    assert ShardWriter(tmp_path / "a", 3, made_by="x").done == 10
    with pytest.raises(ValueError, match="written by 'x', this is 'y'"):
        ShardWriter(tmp_path / "a", 3, made_by="y")


def test_a_folder_never_shows_an_unfinished_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 2) as writer:
        writer.write(make_sample(0))
        assert list(tmp_path.glob("*.tar")) == []
        writer.write(make_sample(1))
        assert [path.name for path in tmp_path.glob("*.tar")] == ["shard-000000.tar"]


@pytest.mark.parametrize("per_shard", [1, 2, 3])
def test_a_key_that_repeats_the_one_before_is_refused(tmp_path: Path, per_shard: int) -> None:
    with (
        pytest.raises(ValueError, match="'s0001' repeats the one before it"),
        ShardWriter(tmp_path, per_shard) as writer,
    ):
        for i in (0, 1, 1):
            writer.write(make_sample(i))
    with ShardWriter(tmp_path, per_shard) as writer:
        if writer.done == 2:
            with pytest.raises(ValueError, match="'s0001' repeats"):
                writer.write(make_sample(1))
        writer.write(make_sample(2))
        writer.write(make_sample(1))


def sums(reader: ShardReader) -> list[int]:
    """Many reads, so that two processes that share a position in a file get in each other's way."""
    return [int(reader.read(i % len(reader), ()).image.sum()) for i in range(300)]


def _sums_in_child(reader: ShardReader, queue) -> None:
    queue.put(sums(reader))


CONTEXTS = [multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")]


@pytest.mark.parametrize("context", CONTEXTS, ids=["fork", "spawn"])
def test_reader_survives_a_new_process(tmp_path: Path, context: ForkContext | SpawnContext) -> None:
    reader = write(tmp_path)
    expected = sums(reader)
    queue = context.Queue()
    child = context.Process(target=_sums_in_child, args=(reader, queue))
    child.start()
    assert sums(reader) == expected
    assert queue.get(timeout=60) == expected
    child.join()
    assert not pickle.loads(pickle.dumps(reader))._open


def test_braces_and_globs_expand(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"a{i}.tar").touch()
    assert expand(str(tmp_path / "a{0..1}.tar")) == [str(tmp_path / f"a{i}.tar") for i in (0, 1)]
    assert expand([str(tmp_path / "*.tar"), "b.tar"]) == [*(str(tmp_path / f"a{i}.tar") for i in range(3)), "b.tar"]


def test_suffixes_of_kinds_are_distinct() -> None:
    assert len({annotation.suffix for annotation in KINDS.values()}) == len(KINDS)


def test_images_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    upright = Image.fromarray(make_sample(0, (16, 24)).image)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned clockwise for display.
    turned.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.asarray(upright))
    values = np.arange(16 * 24).reshape(16, 24).astype(np.uint16) * 170
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.array_equal(
        read_image(tmp_path / "deep.png"), np.rint(values / 257).astype(np.uint8)[..., None].repeat(3, -1)
    )
    upright.convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), np.asarray(upright))
