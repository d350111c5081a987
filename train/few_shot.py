"""Adaptation to a new task from a config: what `diception adapt` runs, as a script.

python train/few_shot.py few_shot model=tiny images=DIR targets=DIR kind=mask name=crack out=runs/crack
"""

from __future__ import annotations

import sys

from diception.config import FewShotConfig, load_config
from diception.training.few_shot import adapt


def main(arguments: list[str]) -> None:
    if not arguments:
        raise SystemExit(__doc__)
    report = adapt(load_config(arguments[0], arguments[1:], FewShotConfig))
    if report is None:
        print("stopped by a signal; the same command goes on")
        return
    print(f"adapter: {report.adapter}; {report.after.primary} {report.before.value:.3f} -> {report.after.value:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
