"""Scenes to shards, rendered by several processes; an interrupted run goes on after its last complete shard."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from diception.datasets.shards import ShardWriter, write_samples
from diception.datasets.synthetic import SyntheticScenes


def write_scenes(
    scenes: SyntheticScenes,
    folder: Path,
    samples_per_shard: int = 1000,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes all scenes; `progress(n)` is told the number in the folder so far. Returns that number."""
    made_by = f"synthetic domain {scenes.domain} size {scenes.size} seed {scenes.seed} mask {scenes.mask}"
    writer = ShardWriter(folder, samples_per_shard, made_by=made_by)
    with ProcessPoolExecutor(workers) as pool:
        rendered = pool.map(scenes.__getitem__, range(writer.done, len(scenes)), chunksize=16)
        return write_samples(rendered, writer, progress)
