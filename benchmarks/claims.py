"""The paper's claims on small models from random weights: every variant trained alike with several seeds, a table each.

python benchmarks/claims.py concatenation --steps 1500 --seeds 3 --out runs/claims

Trains with `tiny/multitask` and what the variant changes, measures on held-out rendered scenes at one step, and keeps
every run with its scores, so that the same command goes on where it was stopped. `sampling` trains nothing: it takes a
model and varies the steps, the guidance, and the seed of noise and questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from small_runs import SIZE, Scores, headlines, measure, note, table, train_small
from torch import Tensor
from tqdm import tqdm

from diception.config import SamplingConfig, TrainConfig, load_config
from diception.datasets.synthetic import held_out_scenes
from diception.evaluation import evaluate_tasks
from diception.inference import Pipeline
from diception.model.diception import TIMESTEPS, Condition, Diception
from diception.model.transformer import DiceptionTransformer, init_small
from diception.tables import sampled, write_report

THREE = {"depth": 1 / 3, "normal": 1 / 3, "entity_segmentation": 1 / 3}
INSTANCES = {"depth": 0.2, "entity_segmentation": 0.8}


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
    "tasks": [
        Variant("together", THREE),
        *(Variant(f"{name} alone", {name: 1.0}, 1 / 3) for name in THREE),
        *(Variant(f"{name} alone for all steps", {name: 1.0}) for name in THREE),
    ],
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
    config.data.latents = min(round(config.data.latents * variant.share), config.steps * config.batch_size)
    config.optim.warmup = config.steps // 10
    config.data.sources[0].tasks, config.data.validation = dict(variant.tasks), []
    for task in config.tasks:
        if task.name == "entity_segmentation" and variant.encoding:
            task.encoding = variant.encoding
    return config


@dataclass
class Bench:
    """Where runs are kept and what they are measured on."""

    out: Path
    count: int
    overrides: list[str] = field(default_factory=list)

    def claim(self, name: str, steps: int, seeds: int) -> dict[str, list[Scores]]:
        """Scores of every variant and seed of a claim; those that are there are read."""
        rows: dict[str, list[Scores]] = {}
        recipe_of_all = asdict(load_config("tiny/multitask", self.overrides))
        note(self.out / name, {"steps": steps, "count": self.count, "recipe": json.loads(json.dumps(recipe_of_all))})
        reader = held_out_scenes(self.count, SIZE, 1, tqdm)
        for seed in range(seeds):
            for variant in CLAIMS[name]:
                run = self.out / name / f"{variant.name.replace(' ', '-')}-{seed}"
                file = run / "scores.json"
                if not file.exists():
                    config = recipe(variant, seed, steps, run, self.overrides)
                    change = partial(with_channels, seed=seed) if variant.channels else (lambda model: model)
                    model, tasks = train_small(config, change)
                    write_report(file, measure(model, tasks, list(variant.tasks), config, reader))
                rows.setdefault(variant.name, []).append(json.loads(file.read_text()))
        return rows

    def sampling(self, model: str, seeds: int, domain: int) -> dict[str, list[Scores]]:
        """Scores of a trained model at several samplings; a seed draws other noise, points and categories."""
        pipeline = Pipeline.from_pretrained(model)
        reader = held_out_scenes(self.count, SIZE, domain, tqdm)
        rows: dict[str, list[Scores]] = {}
        for sampling in SAMPLINGS:
            name = sampled(sampling.steps, sampling.guidance_scale)
            for seed in range(seeds):
                found = evaluate_tasks(
                    pipeline.model, pipeline.tasks.values(), reader, [sampling], self.count, SIZE, seed, baselines=False
                )
                rows.setdefault(name, []).append(headlines(found))
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
