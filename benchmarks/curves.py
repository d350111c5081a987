"""Validation metrics of runs that follow each other, over the samples that they have seen, as one picture.

python benchmarks/curves.py runs/tiny runs/tiny-all runs/tiny-stage{3,4,5,6} --out docs/images/tiny-curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from omegaconf import OmegaConf

Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""Metric, such as `depth abs_rel`, to source to (thousands of samples, value)."""


def read(runs: list[Path], before: float = 0) -> Curves:
    """All validations, but those before a run's first step only where something was learned before and not drawn.

    Args:
        runs: each began where the one before it ended.
        before: thousands of samples that the first of them had seen when it began.
    """
    curves: Curves = {}
    seen = before
    for run in runs:
        config = OmegaConf.load(run / "config.yaml")
        lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
        only = {task: source.name for source in config.data.validation for task in source.tasks}
        for line in lines:
            for name, score in zip(line["losses"], line["scores"], strict=True):
                source = name.rpartition("/")[0] or only[name]
                metric = f"{score['task']} {score['primary']}"
                samples = seen + line["step"] * config.batch_size / 1000
                if line["step"] or seen == before > 0:
                    curves.setdefault(metric, {}).setdefault(source, []).append(
                        (samples, score["metrics"][score["primary"]])
                    )
        seen += lines[-1]["step"] * config.batch_size / 1000
    return curves


def plot(curves: Curves, begin: float = 0) -> Figure:
    """A panel for every metric, a line for every source, from `begin` on."""
    columns = 4
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * rows), layout="constrained")
    names = list(dict.fromkeys(source for sources in curves.values() for source in sources))
    end = max(samples for sources in curves.values() for points in sources.values() for samples, _ in points)
    for index, (metric, sources) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1, title=metric, xlabel="thousand samples")
        for source, points in sources.items():
            color = f"C{names.index(source)}"
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=color)
        highest = max(value for points in sources.values() for _, value in points)
        axes.set(xlim=(begin, end + 0.03 * (end - begin)), ylim=(0, 1.1 * highest))
        axes.grid(alpha=0.3)
    lines = [Line2D([], [], color=f"C{index}", marker="o", markersize=3) for index in range(len(names))]
    figure.legend(lines, names, loc="outside upper right", ncols=len(names))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, each gone on from the one before")
    parser.add_argument(
        "--before", type=float, default=0, help="thousands of samples seen before the first (default 0)"
    )
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    plot(read(arguments.runs, arguments.before), arguments.before).savefig(arguments.out, dpi=100)


if __name__ == "__main__":
    main()
