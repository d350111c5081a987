"""Examples encoded once into files: what the stream has, by whichever ranks, and runs that train on them."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from running import assert_close_to_the_step, assert_equal, in_processes, losses, train_until, weights
from safetensors.torch import load_file

from diception.config import TrainConfig
from diception.datasets.mixture import Stream
from diception.datasets.sample import Batch
from diception.datasets.shards import ShardReader
from diception.model.diception import Diception
from diception.training import latents as module
from diception.training.build import build_model, build_tasks
from diception.training.datamodule import open_stream
from diception.training.latents import LatentFiles, LatentStream, encode
from diception.training.run import train

COUNT = 22


@pytest.fixture
def config(train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(module, "PART", 8)
    return replace(train_config, data=replace(train_config.data, latents=COUNT))


def opened(config: TrainConfig) -> tuple[Diception, Stream]:
    model = build_model(config)
    return model, open_stream(config.data, build_tasks(config, model), config.seed)


def written(model: Diception, stream: Stream, folder: Path, rank: int = 0, ranks: int = 1) -> LatentFiles:
    files, whole = LatentFiles(folder, COUNT), encode(model, stream, COUNT)
    for part in files.missing(rank, ranks):
        files.write(part[0], whole.select(part))
    return files


def same(one: Batch, other: Batch) -> bool:
    assert one.latents is not None and other.latents is not None
    torch.testing.assert_close(one.latents.float(), other.latents.float(), rtol=1e-3, atol=1e-3)
    tensors = [(a, b) for a, b in ((one.points, other.points), (one.point_mask, other.point_mask))]
    texts = (one.prompts, one.tasks, one.keys) == (other.prompts, other.tasks, other.keys)
    return texts and all(torch.equal(a, b) for a, b in tensors)


def test_files_of_all_ranks_hold_the_first_examples(config: TrainConfig, tmp_path: Path) -> None:
    model, stream = opened(config)
    for rank in (1, 0):
        files = written(model, stream, tmp_path / "latents", rank, 2)
    assert files.missing(0, 1) == []
    numbers = [21, 0, 7, 8, 15, 3]
    assert same(files.select(numbers), encode(model, stream, COUNT).select(numbers))
    (tmp_path / "latents" / "part-000001.safetensors").unlink()
    assert files.missing(0, 1) == [list(range(8, 16))] and files.missing(0, 2) == []


def test_an_epoch_has_every_example_once(config: TrainConfig, tmp_path: Path) -> None:
    model, stream = opened(config)
    latents = LatentStream(stream.pairs, stream.seed, written(model, stream, tmp_path / "latents"))
    epochs = [[latents[turn + COUNT * epoch] for turn in range(COUNT)] for epoch in range(2)]
    assert all(sorted(n for n, _ in epoch) == list(range(COUNT)) for epoch in epochs)
    assert [n for n, _ in epochs[0]] != [n for n, _ in epochs[1]]
    assert len({seed for epoch in epochs for _, seed in epoch}) == 2 * COUNT


def test_a_run_on_files_goes_on_where_it_stopped(config: TrainConfig, tmp_path: Path) -> None:
    whole = replace(config, run=str(tmp_path / "whole"))
    train(whole)
    train_until(config, 4)
    made = sorted((Path(config.run) / "latents").iterdir())
    times = [path.stat().st_mtime_ns for path in made]
    assert [path.suffix for path in made] == [".json", *3 * [".safetensors"]]
    train(config)
    assert [path.stat().st_mtime_ns for path in made] == times
    assert_equal(weights(Path(whole.run) / "model"), weights(Path(config.run) / "model"))
    fresh = replace(config, run=str(tmp_path / "fresh"), data=replace(config.data, latents=0))
    train(fresh)
    assert losses(Path(fresh.run)) != losses(Path(config.run))
    stale = replace(config, run=str(tmp_path / "stale"), data=replace(config.data, latents=COUNT + 1))
    shutil.copytree(Path(config.run) / "latents", Path(stale.run) / "latents")
    with pytest.raises(ValueError, match="has examples of another count; delete it"):
        train(stale)


def test_runs_of_one_mixture_may_share_examples(config: TrainConfig, tmp_path: Path) -> None:
    shared = replace(config, data=replace(config.data, latents_folder=str(tmp_path / "shared")))
    train(shared)
    made = sorted((tmp_path / "shared").iterdir())
    times = [path.stat().st_mtime_ns for path in made]
    other = replace(shared, run=str(tmp_path / "other"), optim=replace(config.optim, lr=1e-3))
    train(other)
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "shared").iterdir())] == times and len(times) == 4
    assert not (tmp_path / "other" / "latents").exists() and not (Path(config.run) / "latents").exists()
    with pytest.raises(ValueError, match="data.latents must say how many"):
        replace(config.data, latents=0, latents_folder="x")


def test_shards_that_are_not_those_of_before_are_noticed(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(config, 2)
    monkeypatch.setattr(ShardReader, "fingerprint", lambda reader: "others")
    with pytest.raises(ValueError, match="has examples of another shards; delete it"):
        train(config)


def test_what_one_rank_notes_another_reads_whole(tmp_path: Path) -> None:
    identity = {"mixture": list(range(100_000))}
    with ThreadPoolExecutor(2) as pool:
        for turn in range(40):
            files = LatentFiles(tmp_path / str(turn), COUNT)
            list(pool.map(lambda rank, files=files: files.claim(identity, note=rank == 0), range(2)))
            assert json.loads((tmp_path / str(turn) / "latents.json").read_text())["mixture"] == identity["mixture"]


def test_two_processes_on_files_take_the_steps_of_one(train_config: TrainConfig, tmp_path: Path) -> None:
    """Each of them encodes a part, one of which is there no more when they go on."""
    config = replace(train_config, data=replace(train_config.data, latents=module.PART + COUNT))
    train(config)
    two = replace(config, run=str(tmp_path / "shared"), devices=2)
    shutil.copytree(Path(config.run) / "latents", Path(two.run) / "latents")
    first, second = sorted((Path(two.run) / "latents").glob("part-*"))
    second.unlink()
    time = first.stat().st_mtime_ns
    shared = in_processes(two)
    assert first.stat().st_mtime_ns == time
    for name, values in load_file(second).items():
        assert torch.allclose(values, load_file(Path(config.run) / "latents" / second.name)[name], atol=1e-2)
    one, two = losses(Path(config.run)), losses(shared)
    assert one.keys() == two.keys() and max(abs(one[step] - two[step]) for step in one) < 1e-5
    assert_close_to_the_step(weights(shared / "model"), weights(Path(config.run) / "model"))


def test_a_number_below_zero_is_refused(train_config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="latents is -1"):
        replace(train_config.data, latents=-1)
