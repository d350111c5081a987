"""Tables of scores for the terminal: one block per protocol, so that numbers of two protocols never share a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    title = f"{first.task}  [{first.protocol}; {first.primary}: {arrow}; {first.count} samples at {first.size} px]"
    rows = [(f"{s.steps} step{'s' * (s.steps > 1)}, guidance {s.guidance_scale:g}", s.metrics) for s in scores]
    rows += [(f"baseline: {name}", metrics) for name, metrics in first.baselines.items()]
    return title + "\n" + format_table(rows, sorted(first.metrics, key=lambda name: name != first.primary))


def format_table(rows: Sequence[tuple[str, dict[str, float]]], columns: Sequence[str]) -> str:
    """Rows of (label, values) as aligned text."""
    label = max(len(text) for text, _ in rows)
    widths = [max(8, len(column)) for column in columns]
    lines = [" " * label + "".join(f"  {column:>{width}}" for column, width in zip(columns, widths, strict=True))]
    for text, values in rows:
        cells = (f"{values.get(column, float('nan')):.3f}" for column in columns)
        lines.append(f"{text:<{label}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True)))
    return "\n".join(lines)
