"""The model card: what a model does, how it was made, what it is for, and what it was measured to reach."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diception.model.diception import Diception
from diception.model.weights import read_json
from diception.tables import sampled

CARD = """---
license: {licence}
library_name: diception
tags: [perception, depth, normals, segmentation, pose, flow-matching]
---
# A DICEPTION model
{about}
Base: {base}. Resolution: {resolution} px. Prompts, weights and settings are in this folder; nothing else is needed.

| task | token | encoding |
|---|---|---|
{tasks}

{merged}Sampled in {sampling} where nothing else is said.

Training: {training}

```python
from diception import Pipeline

prediction = Pipeline.from_pretrained("path/of/this/folder")(image, task="{example}")
prediction.annotation
```
"""
MERGED = "An adapter was merged into the weights; the tasks that it did not learn may have suffered from it.\n\n"
KEYS = ("task", "protocol", "primary", "higher_is_better", "count", "size", "steps", "guidance_scale", "metrics")
"""What a score of `diception evaluate --out` must have to be shown."""


@dataclass(frozen=True)
class Measured:
    """A report of `diception evaluate --out`."""

    data: str
    """What was measured on."""
    scores: list[dict[str, Any]]

    @classmethod
    def read(cls, path: str | Path) -> Measured:
        """Reads the file; a ValueError says why it is no such report."""
        report = read_json(Path(path))
        scores = report.get("scores")
        if not isinstance(scores, list) or not scores:
            raise ValueError(f"{path} has no scores; `diception evaluate --out` writes them")
        for score in scores:
            if missing := [key for key in KEYS if not isinstance(score, dict) or key not in score]:
                raise ValueError(f"{path} has a score without {', '.join(missing)}")
            if not isinstance(score["metrics"], dict) or score["primary"] not in score["metrics"]:
                raise ValueError(f"{path} has a score whose metrics do not hold its {score['primary']!r}")
        return cls(str(report.get("data", "")), scores)

    def table(self) -> str:
        """Markdown: headline metric of every task and protocol, a column per sampling, then the baselines."""
        samplings = list(dict.fromkeys(_sampling(score) for score in self.scores))
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for score in self.scores:
            rows.setdefault((score["task"], score["protocol"]), []).append(score)
        heads = ["task", "protocol, metric", "samples", *samplings, "baselines"]
        lines = [f"Measured on {self.data}:", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [_row(scores, samplings) for scores in rows.values()]
        return "\n".join(lines)


def model_card(model: Diception, about: str = "", measured: Sequence[Measured] = ()) -> str:
    """Markdown that says what the model does, how it was made, and what it reaches.

    Args:
        model: its settings are told.
        about: what it is for, in the words of who made it.
        measured: reports of evaluations, a table each.
    """
    settings = model.settings
    rows = [f"| {task['name']} | `{task['token']}` | {task['encoding']} |" for task in settings.tasks]
    card = CARD.format(
        licence=json.dumps(settings.licence) if ":" in settings.licence else settings.licence,
        about=f"\n{about.strip()}\n" if about.strip() else "",
        base=settings.base_model,
        resolution=settings.resolution,
        tasks="\n".join(rows),
        merged=MERGED if "merged" in settings.training else "",
        sampling=sampled(settings.steps, settings.guidance_scale),
        training=_told(settings.training) or "not recorded",
        example=settings.tasks[0]["name"] if settings.tasks else "depth",
    )
    return "\n".join([card, "## Scores\n", *(f"{one.table()}\n" for one in measured)]) if measured else card


def _row(scores: Sequence[dict[str, Any]], samplings: Sequence[str]) -> str:
    """One task under one protocol."""
    first, found = scores[0], {_sampling(score): score["metrics"] for score in scores}
    name, better = first["primary"], "higher" if first["higher_is_better"] else "lower"
    cells = [_number(found.get(sampling, {}).get(name)) for sampling in samplings]
    beside = (f"{_number(metrics.get(name))} {label}" for label, metrics in first.get("baselines", {}).items())
    title = f"{first['protocol']}, {name} ({better} is better)"
    cells = [first["task"], title, f"{first['count']} at {first['size']} px", *cells, "; ".join(beside)]
    return f"| {' | '.join(cells)} |"


def _sampling(score: Mapping[str, Any]) -> str:
    return sampled(score["steps"], score["guidance_scale"], score.get("turns", False))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _told(training: Mapping[str, Any]) -> str:
    """A summary of training in words, with that of the model it went on from."""
    told = ", ".join(f"{key} {value}" for key, value in training.items() if key != "before")
    return f"{told}; before that: {_told(training['before'])}" if training.get("before") else told
