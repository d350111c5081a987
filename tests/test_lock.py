"""A folder has one writer at a time, and none when that one is dead."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diception import lock
from diception.config import TrainConfig
from diception.datasets.convert import Conversion, convert
from diception.datasets.synthetic import SyntheticScenes
from diception.lock import only_writer
from diception.training.run import train

HOLDER = """
import sys, time
from pathlib import Path
from diception.lock import only_writer

with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that writes to a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_another_process_writes_to_is_refused_and_untouched(
    train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    folder = Path(train_config.run)
    holder = hold(folder)
    try:
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(ValueError, match=f"another process writes to {folder}"):
            train(train_config)
        with pytest.raises(ValueError, match=f"another process writes to {folder}"):
            convert(SyntheticScenes(2, 16), folder, Conversion())
        assert sorted(path.name for path in folder.iterdir()) == before
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    convert(SyntheticScenes(2, 16), folder, Conversion())
    assert (folder / "manifest.json").exists()


def test_a_folder_is_free_after_its_writer_and_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), only_writer(tmp_path / "new"):
            raise KeyError
