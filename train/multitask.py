"""Multi-task training from a config: what `diception train` runs, as a script for torchrun and Slurm.

python train/multitask.py tiny/multitask run=runs/mine optim.lr=1e-3
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from diception.config import TrainConfig, load_config
from diception.training.run import train

STOPPED = "DICEPTION_STOPPED"
"""Names a file that is made where the run was told to stop: both this and its end have exit status 0."""


def main(arguments: list[str]) -> None:
    if not arguments:
        raise SystemExit(__doc__)
    config = load_config(arguments[0], arguments[1:], TrainConfig)
    path = train(config)
    if path is None and STOPPED in os.environ:
        Path(os.environ[STOPPED]).touch()
    print(f"model: {path}" if path else "stopped; the same command goes on")


if __name__ == "__main__":
    main(sys.argv[1:])
