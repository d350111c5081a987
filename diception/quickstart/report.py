"""The quick start's report: one self-contained HTML page with the numbers before and after, and the panels."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path

STYLE = """
:root { --ink: #23262d; --soft: #6b7280; --line: #e3e5e9; --good: #14794a; --bad: #b3412f; --accent: #3b5bdb; }
* { box-sizing: border-box; }
body { font: 16px/1.6 system-ui, "Segoe UI", sans-serif; color: var(--ink); background: #f6f7f9; margin: 0; }
main { max-width: 1020px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 34px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.02em; }
h2 { font-size: 21px; margin: 44px 0 10px; }
p.lead { color: var(--soft); font-size: 18px; margin: 0 0 20px; max-width: 46em; }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; }
section { padding: 4px 26px 24px; margin-top: 22px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 8px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 500; font-size: 14px; }
td.good { color: var(--good); font-weight: 600; } td.bad { color: var(--bad); font-weight: 600; }
small, figcaption { color: var(--soft); font-size: 14px; }
figure { margin: 16px 0 0; } figure img { width: 100%; border-radius: 8px; border: 1px solid var(--line); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 16px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px; margin-top: 18px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.card b { display: block; font-size: 27px; letter-spacing: -.02em; }
.card span { color: var(--soft); font-size: 14px; }
@media (max-width: 720px) { .pair { grid-template-columns: 1fr; } }
"""


def write_report(folder: Path, new_task: str, meaning: str) -> Path:
    """Builds `report.html` from what the stages left in `folder`; `meaning` says what the new task marks."""
    before, after = (json.loads((folder / f"{name}.json").read_text()) for name in ("before", "after"))
    shot = json.loads((folder / "adapter" / "report.json").read_text())
    seconds = json.loads((folder / "seconds.json").read_text())
    improved = sum(_gain(old, new) >= 5e-4 for old, new in _pairs(before, after))
    cards = [
        (f"{improved} of {len(after)}", "measures better after training"),
        (f"{shot['before']['metrics']['iou']:.2f} → {shot['after']['metrics']['iou']:.2f}", f"IoU of “{new_task}”"),
        (f"{shot['share']:.2%}", "of the transformer in the adapter"),
        (f"{sum(seconds.values()) / 60:.1f} min", "all stages together"),
    ]
    parts = [
        "<h1>DICEPTION quick start</h1>",
        '<p class="lead">One model paints depth, normals, poses and masks as pictures. Here it met scenes that it had '
        "never seen, trained on them, learned a new task from a few images, was exported and loaded again.</p>",
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{b}</b><span>{t}</span></div>' for b, t in cards)
        + "</div>",
        _training_section(folder, before, after),
        _few_shot_section(folder, shot, new_task, meaning),
        _photo_section(folder),
        _time_section(seconds),
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>DICEPTION quick start</title><style>{STYLE}</style>"
    )
    page += '<meta name="viewport" content="width=device-width"><main>' + "\n".join(parts) + "</main></html>"
    (folder / "report.html").write_text(page, encoding="utf8")
    return folder / "report.html"


def _training_section(folder: Path, before: list[dict], after: list[dict]) -> str:
    count, steps = after[0]["count"], after[0]["steps"]
    return (
        "<section><h2>Six tasks on unseen scenes</h2>"
        f"<p>Held-out scenes as a thermal camera shows them; the embedded model has never seen false colours. "
        f"Up to {count} scenes a task, {steps} denoising step{'s' * (steps > 1)}. The baseline ignores the "
        "image.</p>"
        + _score_table(before, after)
        + '<div class="pair">'
        + _figure(folder / "before.png", "before: the embedded model")
        + _figure(folder / "after.png", "after training on these scenes")
        + "</div></section>"
    )


def _few_shot_section(folder: Path, shot: dict, new_task: str, meaning: str) -> str:
    before, after = shot["before"], shot["after"]
    rows = [("baseline: " + name, metrics) for name, metrics in after["baselines"].items()]
    rows += [("model without the adapter", before["metrics"]), ("model with the adapter", after["metrics"])]
    names = list(after["metrics"])
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><td>{escape(label)}</td>" + "".join(f"<td>{_number(metrics[name])}</td>" for name in names) + "</tr>"
        for label, metrics in rows
    )
    return (
        f"<section><h2>A new task from {shot['images']} images</h2><p>“{escape(new_task)}”: {escape(meaning)}, a mask "
        f"that none of the six tasks paints. A LoRA adapter with {shot['share']:.2%} of the "
        f"transformer's parameters, measured on {after['count']} images that it never saw.</p>"
        f"<table><tr><th></th>{head}</tr>{body}</table>"
        + _figure(folder / "adapter" / "panel.png", "held-out images")
        + "</section>"
    )


def _photo_section(folder: Path) -> str:
    # <photo>.<task>.png are the pictures for people; beside each lies its raw painting.
    every = (folder / "photo").glob("*.png")
    pictures = sorted(p for p in every if p.name == "input.png" or p.with_suffix(".rgb.png").exists())
    pictures.sort(key=lambda path: path.name != "input.png")
    figures = "".join(_figure(path, _photo_caption(path)) for path in pictures)
    return (
        "<section><h2>A photograph</h2><p>Predicted by the exported model in a fresh process. A model of five million "
        "parameters that has seen rendered scenes alone cannot read a photograph well: this shows what comes out, "
        f'not what the method can do.</p><div class="gallery">{figures}</div></section>'
    )


def _photo_caption(path: Path) -> str:
    return "input" if path.name == "input.png" else path.stem.split(".")[-1].replace("_", " ")


def _time_section(seconds: dict[str, float]) -> str:
    rows = "".join(f"<tr><td>{escape(title)}</td><td>{value:.0f} s</td></tr>" for title, value in seconds.items())
    return f"<section><h2>Where the time went</h2><table>{rows}</table></section>"


def _score_table(before: list[dict], after: list[dict]) -> str:
    rows = []
    for old, new in _pairs(before, after):
        name, gain = new["primary"], _gain(old, new)
        guesses = {label: metrics[name] for label, metrics in new["baselines"].items()}
        guess = "<br>".join(f"{_number(value)} <small>{escape(label)}</small>" for label, value in guesses.items())
        arrow = "↑" if new["higher_is_better"] else "↓"
        rows.append(
            f"<tr><td>{escape(new['task'].replace('_', ' '))}<br><small>{escape(new['protocol'])}</small></td>"
            f"<td>{escape(name)} {arrow}</td><td>{guess}</td><td>{_number(old['metrics'][name] if old else None)}</td>"
            f'<td>{_number(new["metrics"][name])}</td><td class="{_verdict(gain)}">{gain:+.3f}</td></tr>'
        )
    head = "<tr><th>task</th><th>metric</th><th>ignoring the image</th><th>before</th><th>after</th><th>gain</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _pairs(before: list[dict], after: list[dict]) -> list[tuple[dict | None, dict]]:
    """Scores before and after; None for a task that the model did not know before."""
    known = {(score["task"], score["protocol"]): score for score in before}
    return [(known.get((score["task"], score["protocol"])), score) for score in after]


def _gain(old: dict | None, new: dict) -> float:
    """Change of the headline metric, positive for better in either direction; 0 where it was not measured."""
    if old is None:
        return 0.0
    before, after = (score["metrics"][score["primary"]] for score in (old, new))
    if before is None or after is None:
        return 0.0
    return after - before if new["higher_is_better"] else before - after


def _verdict(gain: float) -> str:
    """The class of a table cell; what rounds to nothing is neither good nor bad."""
    return "" if abs(gain) < 5e-4 else "good" if gain > 0 else "bad"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    picture = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"
