"""Scores as tables for the terminal, one block per protocol so that those of two never share a row, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diception.evaluation import Score


def format_scores(scores: Sequence[Score]) -> str:
    """One table per task and protocol: a row per number of steps, then a row per baseline."""
    blocks: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        blocks.setdefault((score.task, score.protocol), []).append(score)
    return "\n\n".join(_block(rows) for rows in blocks.values())


def _block(scores: list[Score]) -> str:
    first = scores[0]
    arrow = "higher is better" if first.higher_is_better else "lower is better"
    size = f"in windows of {first.size} px at {first.zoom:g} x their size" if first.zoom else f"at {first.size} px"
    title = f"{first.task}  [{first.protocol}; {first.primary}: {arrow}; {first.count} samples {size}]"
    rows = [(sampled(score.steps, score.guidance_scale, score.turns), score.metrics) for score in scores]
    rows += [(f"baseline: {name}", metrics) for name, metrics in first.baselines.items()]
    return title + "\n" + format_table(rows, sorted(first.metrics, key=lambda name: name != first.primary))


def sampled(steps: int, guidance_scale: float, turns: bool = False) -> str:
    """A sampling in words: `4 steps, guidance 1`."""
    return f"{steps} step{'s' * (steps > 1)}, guidance {guidance_scale:g}" + ", 8 views" * turns


def format_table(rows: Sequence[tuple[str, dict[str, float]]], columns: Sequence[str]) -> str:
    """Rows of (label, values) as aligned text."""
    label = max(len(text) for text, _ in rows)
    widths = [max(8, len(column)) for column in columns]
    lines = [" " * label + "".join(f"  {column:>{width}}" for column, width in zip(columns, widths, strict=True))]
    for text, values in rows:
        cells = (f"{values.get(column, float('nan')):.3f}" for column in columns)
        lines.append(f"{text:<{label}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True)))
    return "\n".join(lines)


def write_report(path: Path, content: Any) -> None:
    """Writes what every reader of JSON takes: null where a number is undefined or endless. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(strict(content), indent=1, allow_nan=False) + "\n", encoding="utf8")


def strict(content: Any) -> Any:
    """The same with None in place of nan and inf, which JSON does not know."""
    if isinstance(content, dict):
        return {key: strict(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
