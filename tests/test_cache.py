"""Remote shards: fetched when read, once, again after a failure, and dropped for space."""

from __future__ import annotations

import http.server
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import pytest

import diception.datasets.cache as cache_module
import diception.datasets.fetch as fetch_module
from diception.annotations import BinaryMask
from diception.datasets.cache import ShardCache
from diception.datasets.index import index_path
from diception.datasets.sample import CorruptSample, Sample
from diception.datasets.shards import ShardReader
from diception.datasets.writer import ShardWriter, write_samples


def make_sample(i: int) -> Sample:
    image = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Sample(f"s{i:04d}", image, {"mask": BinaryMask(image[..., 0] > 99)})


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, counts what is asked for, and fails as often as it is told to."""

    folder: Path
    asked: Counter[str]
    failures: int


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked[name] += 1
        file = self.server.folder / name
        if name.endswith(".tar") and self.server.failures > 0:
            self.server.failures -= 1
            self.send_error(503)
        elif not file.exists():
            self.send_error(404)
        else:
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.send_error(405)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    """A server of 4 shards of 3 samples, and their url pattern."""
    write_samples(map(make_sample, range(12)), ShardWriter(tmp_path / "far", 3, image_format="png"))
    server = Server(("127.0.0.1", 0), Handler)
    server.folder, server.asked, server.failures = tmp_path / "far", Counter(), 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(fetch_module, "WAIT", 0.01)
    yield server, f"http://127.0.0.1:{server.server_port}/shard-{{000000..000003}}.tar"
    server.shutdown()
    server.server_close()
    thread.join()


def tars(server: Server) -> dict[str, int]:
    return {name: count for name, count in server.asked.items() if name.endswith(".tar")}


def test_a_shard_is_fetched_when_it_is_read_and_once(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    reader = ShardReader(url, ShardCache(tmp_path / "near"))
    assert len(reader) == 12 and reader.key(7) == "s0007" and not tars(server)
    for i in (7, 6, 8, 7):
        assert np.array_equal(reader.read(i).image, make_sample(i).image)
    again = ShardReader(url, ShardCache(tmp_path / "near"))
    assert np.array_equal(again.read(8).image, make_sample(8).image)
    assert tars(server) == {"shard-000002.tar": 1}


def test_a_failed_fetch_is_tried_again_and_is_no_corrupt_sample(
    far: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str, path: Path) -> None:
        raise OSError(28, "No space left on device")

    server, url = far
    reader = ShardReader(url, ShardCache(tmp_path / "near"))
    server.failures = 2
    assert reader.read(0).key == "s0000" and tars(server) == {"shard-000000.tar": 3}
    server.failures = 99
    # Nothing is wrong with the sample: it must not be replaced.
    with pytest.raises(OSError, match=r"shard-000001\.tar.*cannot be fetched"):
        reader.read(3)
    monkeypatch.setattr(fetch_module, "_get", full)
    with pytest.raises(OSError, match=r"shard-000001\.tar.*No space left"):
        reader.read_reduced(3, None, 8)
    assert not list((tmp_path / "near").glob(".*.tmp"))


def test_a_shard_that_is_not_the_one_of_its_index_is_not_read(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    reader = ShardReader(url, ShardCache(tmp_path / "near"))
    shard = server.folder / "shard-000003.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ValueError, match=r"shard-000003\.tar.* bytes, its index is of a tar of") as caught:
        reader.read(10)
    assert not isinstance(caught.value, CorruptSample)
    assert reader.read(1).key == "s0001" and len(list((tmp_path / "near").glob("*.tar"))) == 1


def test_a_replaced_shard_is_told_and_read_by_the_next_reader(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    cache = ShardCache(tmp_path / "near")
    reader = ShardReader(url, cache)
    size = (server.folder / "shard-000000.tar").stat().st_size
    write_samples(map(make_sample, range(20, 32)), ShardWriter(tmp_path / "new", 3, image_format="png"))
    for path in (tmp_path / "new").iterdir():
        path.rename(server.folder / path.name)
    assert (server.folder / "shard-000000.tar").stat().st_size == size
    with pytest.raises(ValueError, match=r"shard-000000\.tar.*other bytes than its index says.*start again"):
        reader.read(0)
    assert not list((tmp_path / "near").glob("*.tar"))
    assert ShardReader(url, cache).read(0).key == "s0020"


def test_a_damaged_copy_is_fetched_again(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    reader = ShardReader(url, ShardCache(tmp_path / "near"))
    assert reader.read(0).key == "s0000"
    reader.close()
    reader.shards[0].write_bytes(reader.shards[0].read_bytes()[:5000])
    assert np.array_equal(reader.read(1).image, make_sample(1).image)
    assert tars(server) == {"shard-000000.tar": 2}


def test_a_page_in_place_of_an_index_is_no_index(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    (server.folder / "shard-000000.index.json").write_text("<html>not found</html>")
    reader = ShardReader(url, ShardCache(tmp_path / "near"))
    assert reader.read(1).key == "s0001" and tars(server) == {"shard-000000.tar": 1}


def test_a_shard_without_an_index_is_scanned_once(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    index_path(server.folder / "shard-000001.tar").unlink()
    for _ in range(2):
        reader = ShardReader(url, ShardCache(tmp_path / "near"))
        assert reader.read(4).key == "s0004"
    assert tars(server) == {"shard-000001.tar": 1}


def test_the_cache_stays_within_its_size_and_drops_the_oldest(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    size = (server.folder / "shard-000000.tar").stat().st_size
    reader = ShardReader(url, ShardCache(tmp_path / "near", max_bytes=int(2.5 * size)))
    for i in (0, 3, 6, 9, 0, 9):
        assert np.array_equal(reader.read(i).image, make_sample(i).image)  # open files outlive their names
        assert sum(path.stat().st_size for path in (tmp_path / "near").glob("*.tar")) <= 2.5 * size
    reader.close()
    assert reader.read(0).key == "s0000"
    assert tars(server) == {f"shard-{i:06d}.tar": 2 if i == 0 else 1 for i in range(4)}


def test_a_shard_larger_than_the_cache_is_read_all_the_same(far: tuple[Server, str], tmp_path: Path) -> None:
    _, url = far
    reader = ShardReader(url, ShardCache(tmp_path / "near", max_bytes=1))
    assert [reader.read(i).key for i in (0, 4, 1)] == ["s0000", "s0004", "s0001"]
    assert len(list((tmp_path / "near").glob("*.tar"))) == 1


def _read_all(url: str, folder: Path) -> None:
    reader = ShardReader(url, ShardCache(folder))
    assert [reader.read(i).key for i in range(12)] == [f"s{i:04d}" for i in range(12)]


@pytest.mark.parametrize("indexed", [True, False])
def test_processes_share_a_cache(far: tuple[Server, str], tmp_path: Path, indexed: bool) -> None:
    server, url = far
    for path in [] if indexed else server.folder.glob("*.json"):
        path.unlink()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_read_all, args=(url, tmp_path / "near")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert set(server.asked.values()) == {1} and len(server.asked) == 8


def test_a_shard_is_not_dropped_before_it_is_open(
    far: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = far
    folder = tmp_path / "near"

    def late(path: str) -> FileIO:
        other = threading.Thread(target=ShardCache(folder, 1)._make_room, args=(folder / "other.tar",))
        other.start()
        other.join(30)
        assert not other.is_alive()
        return FileIO(path)

    monkeypatch.setattr(cache_module, "FileIO", late)
    reader = ShardReader(url, ShardCache(folder))
    assert reader.read(0).key == "s0000" and len(list(folder.glob("*.tar"))) == 1


def test_what_killed_fetches_leave_is_removed(far: tuple[Server, str], tmp_path: Path) -> None:
    _, url = far
    reader = ShardReader(url, ShardCache(tmp_path / "near"))
    same, old, new = (tmp_path / "near" / f".{name}.0123.tmp" for name in (reader.shards[0].name, "a.tar", "b.tar"))
    for path in (same, old, new):
        path.touch()
    os.utime(old, (0, 0))
    assert reader.read(0).key == "s0000"
    assert list((tmp_path / "near").glob(".*.tmp")) == [new]


def test_a_busy_shard_is_left_alone(far: tuple[Server, str], tmp_path: Path) -> None:
    server, url = far
    size = (server.folder / "shard-000000.tar").stat().st_size
    cache = ShardCache(tmp_path / "near", int(2.5 * size))
    reader = ShardReader(url, cache)
    assert [reader.read(i).key for i in (0, 3)] == ["s0000", "s0003"]
    with cache._lock(reader.shards[0]):
        reader.read(6)
    assert [path.exists() for path in reader.shards] == [True, False, True, False]


def test_a_pipe_is_read_and_other_texts_are_refused(tmp_path: Path) -> None:
    write_samples(map(make_sample, range(2)), ShardWriter(tmp_path / "far"))
    shard = tmp_path / "far" / "shard-000000.tar"
    reader = ShardReader(f"pipe:cat {shard}", ShardCache(tmp_path / "near"))
    shard.unlink()
    assert reader.read(1).key == "s0001"
    with pytest.raises(ValueError, match="not allowed"):
        ShardReader("https://example.org/'; touch x; '.tar", ShardCache(tmp_path / "near"))
    with pytest.raises(ValueError, match="cache folder"):
        ShardReader("https://example.org/a.tar")
    with pytest.raises(ValueError, match="0 bytes"):
        ShardCache(tmp_path, 0)
