"""The small network's shape: width, depth, patch and length of the prompt, each trained from nothing for the same time.

OMP_NUM_THREADS=1 python benchmarks/shape.py --minutes 8 --out runs/shape batch_size=16

Trains `tiny/multitask` with four of its tasks, a quarter each, in every shape on the same encoded examples, for as many
steps as fit the time at the pace that is measured first, and measures on held-out rendered scenes at one step. Time is
the processor's for this process, so that others matter little; it says nothing about a GPU. Paces, runs and scores are
kept: the same command goes on where it was stopped. The learning rate is the recipe's for all, unless overridden: it
may suit one shape better than another.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from small_runs import SIZE, Clock, Scores, measure, note, table, train_small
from tqdm import tqdm

from diception.config import TrainConfig, load_config
from diception.datasets.mixture import Reader
from diception.datasets.synthetic import held_out_scenes
from diception.tables import write_report

PROBE, SETTLED = 40, 15
"""Steps of the run that measures the pace, and those before it is steady."""
TASKS = ("depth", "normal", "entity_segmentation", "semantic_segmentation")


@dataclass(frozen=True)
class Shape:
    """Of the transformer."""

    layers: int
    width: int
    patch: int = 2
    text_tokens: int = 16

    @property
    def heads(self) -> int:
        """Of 64 channels each."""
        return self.width // 64


SHAPES = {
    "4x192": Shape(4, 192),
    "4x128": Shape(4, 128),
    "4x256": Shape(4, 256),
    "1x192": Shape(1, 192),
    "1x384": Shape(1, 384),
    "2x192": Shape(2, 192),
    "2x256": Shape(2, 256),
    "3x192": Shape(3, 192),
    "8x192": Shape(8, 192),
    "4x192-patch1": Shape(4, 192, patch=1),
    "4x192-8words": Shape(4, 192, text_tokens=8),
    "4x192-32words": Shape(4, 192, text_tokens=32),
}
"""By blocks and width."""


@dataclass
class Bench:
    """Where runs are kept, how long each may train, and what else changes the recipe."""

    out: Path
    minutes: float
    examples: int
    overrides: list[str] = field(default_factory=list)

    def recipe(self, name: str, seed: int, steps: int, run: Path) -> TrainConfig:
        """`tiny/multitask` in a shape; all runs of a seed share their encoded examples."""
        config = load_config("tiny/multitask", self.overrides)
        config.run, config.seed, config.steps = str(run), seed, steps
        config.optim.warmup, config.optim.schedule = steps // 10, "cosine"
        config.data.validation, config.data.latents = [], self.examples
        config.data.sources[0].tasks = dict.fromkeys(TASKS, 1 / len(TASKS))
        config.data.latents_folder = str(self.out / f"latents-{seed}")
        config.model.heads = SHAPES[name].heads
        for key, value in asdict(SHAPES[name]).items():
            setattr(config.model, key, value)
        return config

    def pace(self, name: str) -> float:
        """Seconds of one core a step of a shape, measured once."""
        file = self.out / "paces" / f"{name}.json"
        if not file.exists():
            run, clock = self.out / "probe", Clock()
            shutil.rmtree(run, ignore_errors=True)  # of a probe that was interrupted
            train_small(self.recipe(name, 0, PROBE, run), clock=clock)
            write_report(file, {"seconds": clock.pace(SETTLED)})
        return float(json.loads(file.read_text())["seconds"])

    def scores(self, name: str, seed: int, reader: Reader) -> Scores:
        """Trains a shape for the time, or goes on, and measures every task; a score that is there is read."""
        run = self.out / f"{name}-{seed}"
        file = run / "scores.json"
        if not file.exists():
            steps = round(60 * self.minutes / self.pace(name))
            config = self.recipe(name, seed, steps, run)
            try:
                model, tasks = train_small(config)
            except FloatingPointError as error:
                print(f"{name}: {error}")
                write_report(file, {"steps": steps})
            else:
                million = sum(p.numel() for p in model.transformer.parameters()) / 1e6
                told = {"million parameters": million, "steps": steps}
                write_report(file, told | measure(model, tasks, list(config.data.sources[0].tasks), config, reader))
        return json.loads(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="of one core for every training")
    parser.add_argument("--examples", type=int, default=20000, help="encoded once, for all runs of a seed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--count", type=int, default=200, help="held-out scenes")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=Path("runs/shape"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe, but not of shape and tasks")
    arguments = parser.parse_intermixed_args()
    own = {"model.heads", *(f"model.{key.name}" for key in fields(Shape))} & {
        one.split("=")[0] for one in arguments.overrides
    }
    if own:
        parser.error(f"{', '.join(sorted(own))}: --shapes says that")
    bench = Bench(arguments.out, arguments.minutes, arguments.examples, arguments.overrides)
    asked = {"core minutes": bench.minutes, "tasks": list(TASKS), "examples": bench.examples, "count": arguments.count}
    note(bench.out, asked | {"overrides": bench.overrides})
    reader = held_out_scenes(arguments.count, SIZE, 1, tqdm)
    seeds = range(arguments.seeds)
    rows = {name: [bench.scores(name, seed, reader) for seed in seeds] for name in arguments.shapes}
    print(table(rows))


if __name__ == "__main__":
    main()
