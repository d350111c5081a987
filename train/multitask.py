"""Multi-task training from a config: what `diception train` runs, as a script for torchrun and Slurm.

python train/multitask.py tiny/multitask run=runs/mine optim.lr=1e-3
"""

from __future__ import annotations

import sys

from diception.config import TrainConfig, load_config
from diception.training.run import train


def main(arguments: list[str]) -> None:
    if not arguments:
        raise SystemExit(__doc__)
    config = load_config(arguments[0], arguments[1:], TrainConfig)
    path = train(config)
    print(f"model: {path}" if path else "stopped; the same command goes on")


if __name__ == "__main__":
    main(sys.argv[1:])
