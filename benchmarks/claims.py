"""The paper's claims on small models from random weights: every variant trained alike with several seeds, a table each.

python benchmarks/claims.py concatenation --steps 1500 --seeds 3 --out runs/claims

Trains with `tiny/multitask` and what the variant changes, measures on held-out rendered scenes at one step, and keeps
every run with its scores, so that the same command goes on where it was stopped. `sampling` trains nothing: it takes a
model and varies the steps, the guidance, and the seed of noise and questions.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from diception.config import SamplingConfig, TrainConfig, load_config
from diception.datasets.mixture import Reader
from diception.datasets.synthetic import held_out_scenes
from diception.evaluation import evaluate_tasks
from diception.inference import Pipeline
from diception.model.diception import TIMESTEPS, Condition, Diception
from diception.model.transformer import DiceptionTransformer, init_small
from diception.tables import write_report
from diception.training.build import build_model, build_tasks
from diception.training.datamodule import open_stream
from diception.training.run import fit, stopped

THREE = {"depth": 1 / 3, "normal": 1 / 3, "entity_segmentation": 1 / 3}
INSTANCES = {"depth": 0.2, "entity_segmentation": 0.8}
Scores = dict[str, float]
"""Headline metric of every task."""


@dataclass(frozen=True)
class Variant:
    """What is changed in the recipe."""

    name: str
    tasks: dict[str, float]
    """Task to its share of the samples."""
    share: float = 1.0
    """Of steps and encoded examples: with a third of them, a task alone sees as many samples as among three."""
    encoding: str = ""
    """How entities are painted."""
    channels: bool = False
    """The image's latents are more channels of the noisy tokens, not tokens of their own."""


CLAIMS = {
    "concatenation": [Variant("tokens", THREE), Variant("channels", THREE, channels=True)],
    "tasks": [Variant("together", THREE), *(Variant(f"{name} alone", {name: 1.0}, 1 / 3) for name in THREE)],
    "colors": [Variant(name, INSTANCES, encoding=name) for name in ("placed", "palette", "position", "random")],
}
SAMPLINGS = [
    SamplingConfig(1, 1),
    SamplingConfig(4, 1),
    SamplingConfig(28, 1),
    SamplingConfig(28, 2),
    SamplingConfig(28, 3),
]


class ChannelDiception(Diception):
    """The image beside the noise in the channels: half as many tokens, and a patch embedding that SD3 does not have."""

    def velocity(self, latents: Tensor, sigmas: Tensor, image_latents: Tensor, condition: Condition) -> Tensor:
        both = torch.cat([latents, image_latents], dim=1)
        context = condition.context, condition.pooled, condition.point_tokens
        return self.transformer(both, None, sigmas.float() * TIMESTEPS, *context)


def with_channels(model: Diception, seed: int) -> ChannelDiception:
    """The same sizes, fresh weights."""
    shape = dict(model.transformer.config) | {"in_channels": 2 * model.autoencoder.channels}
    transformer = DiceptionTransformer.from_config(shape)
    assert isinstance(transformer, DiceptionTransformer)
    init_small(transformer, torch.Generator().manual_seed(seed))
    return ChannelDiception(transformer, model.points, model.autoencoder, model.bank, model.settings)


def recipe(variant: Variant, seed: int, steps: int, run: Path, overrides: Sequence[str]) -> TrainConfig:
    """`tiny/multitask` with what the variant changes."""
    config = load_config("tiny/multitask", list(overrides))
    config.run, config.seed, config.steps = str(run), seed, round(steps * variant.share)
    config.data.latents = round(config.data.latents * variant.share)
    config.optim.warmup = config.steps // 10
    config.data.sources[0].tasks, config.data.validation = dict(variant.tasks), []
    for task in config.tasks:
        if task.name == "entity_segmentation" and variant.encoding:
            task.encoding = variant.encoding
    return config


def train_variant(config: TrainConfig, variant: Variant, reader: Reader, size: int) -> Scores:
    """Trains, or goes on, and measures."""
    model = build_model(config)
    if variant.channels:
        model = with_channels(model, config.seed)
    tasks = build_tasks(config, model)
    module = fit(model, open_stream(config.data, tasks, config.seed), [], config)
    if stopped(module):
        raise SystemExit("stopped by a signal; the same command goes on")
    asked = [tasks[name] for name in variant.tasks]
    scores = evaluate_tasks(module.model, asked, reader, [config.sampling], len(reader), size, baselines=False)
    return {score.task: score.value for score in reversed(scores)}  # of a task's protocols the first stays


def spread(found: Sequence[float]) -> str:
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    return f"{statistics.mean(found):.3f} +- {deviation:.3f}"


def table(rows: dict[str, list[Scores]]) -> str:
    """Markdown: a row per variant, mean and standard deviation over the seeds of every task."""
    columns = sorted({task for runs in rows.values() for scores in runs for task in scores})
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, runs in rows.items():
        cells = [spread([scores[task] for scores in runs]) if task in runs[0] else "" for task in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass
class Bench:
    """Where runs are kept and what they are measured on."""

    out: Path
    count: int
    overrides: list[str] = field(default_factory=list)

    def claim(self, name: str, steps: int, seeds: int) -> dict[str, list[Scores]]:
        """Scores of every variant and seed of a claim; those that are there are read."""
        rows: dict[str, list[Scores]] = {}
        self._note(name, {"steps": steps, "count": self.count, "overrides": self.overrides})
        reader = held_out_scenes(self.count, 128, 1, tqdm)
        for seed in range(seeds):
            for variant in CLAIMS[name]:
                run = self.out / name / f"{variant.name.replace(' ', '-')}-{seed}"
                file = run / "scores.json"
                if not file.exists():
                    config = recipe(variant, seed, steps, run, self.overrides)
                    write_report(file, train_variant(config, variant, reader, 128))
                rows.setdefault(variant.name, []).append(json.loads(file.read_text()))
        return rows

    def _note(self, name: str, asked: dict) -> None:
        """Refuses a folder with results of another command."""
        made = self.out / name / "options.json"
        if made.exists() and (before := json.loads(made.read_text())) != asked:
            raise SystemExit(f"{made.parent} has results of {before}, asked is {asked}; choose another --out")
        write_report(made, asked)

    def sampling(self, model: str, seeds: int, domain: int) -> dict[str, list[Scores]]:
        """Scores of a trained model at several samplings; a seed draws other noise, points and categories."""
        pipeline = Pipeline.from_pretrained(model)
        reader = held_out_scenes(self.count, 128, domain, tqdm)
        rows: dict[str, list[Scores]] = {}
        for sampling in SAMPLINGS:
            name = f"{sampling.steps} steps, guidance {sampling.guidance_scale:g}"
            for seed in range(seeds):
                found = evaluate_tasks(
                    pipeline.model, pipeline.tasks.values(), reader, [sampling], self.count, 128, seed, baselines=False
                )
                rows.setdefault(name, []).append({score.task: score.value for score in reversed(found)})
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=(*CLAIMS, "sampling"))
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps of a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=200, help="held-out scenes")
    parser.add_argument("--model", default="tiny", help="for sampling")
    parser.add_argument("--domain", type=int, default=1, help="for sampling")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    arguments = parser.parse_intermixed_args()
    bench = Bench(arguments.out, arguments.count, arguments.overrides)
    if arguments.claim == "sampling":
        rows = bench.sampling(arguments.model, arguments.seeds, arguments.domain)
    else:
        rows = bench.claim(arguments.claim, arguments.steps, arguments.seeds)
    print(table(rows))
    write_report(arguments.out / f"{arguments.claim}.json", rows)


if __name__ == "__main__":
    main()
