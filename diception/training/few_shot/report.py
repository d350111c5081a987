"""What an adaptation did, as JSON for machines and as one HTML page for people."""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path

from diception.evaluation import Score
from diception.tables import write_report
from diception.training.few_shot.curve import Point
from diception.training.few_shot.forgetting import Forgotten

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}h2{margin-top:2rem}small{color:#666}"""


@dataclass
class FewShotReport:
    """What an adaptation did, on images that it never saw."""

    task: dict
    adapter: str
    share: float
    """The adapter's parameters over the transformer's."""
    images: int
    """Images trained on."""
    before: Score
    """The model without the adapter."""
    after: Score
    steps: int = 0
    """Optimizer steps taken."""
    rank: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of every part."""
    memory_gb: dict[str, float] = field(default_factory=dict)
    """`estimated` before training, `peak` as measured."""
    curve: list[Point] = field(default_factory=list)
    """The metric while training, and on what it was taken (`curve_on`)."""
    curve_on: str = ""
    learning_curve: list[dict] = field(default_factory=list)
    """Images trained on and the headline metric on the same held-out images."""
    forgetting: list[Forgotten] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes `report.json`, and `report.html` with the pictures that are in the folder."""
        scores = {"before": self.before.as_dict(), "after": self.after.as_dict()}
        write_report(folder / "report.json", asdict(self) | scores)
        (folder / "report.html").write_text(_page(self, folder), encoding="utf8")


def _page(report: FewShotReport, folder: Path) -> str:
    name, after = escape(report.task["name"]), report.after
    seconds = ", ".join(f"{escape(part)} {value:.0f} s" for part, value in report.seconds.items())
    memory = ", ".join(f"{escape(part)} {value:.2f} GB" for part, value in report.memory_gb.items())
    parts = [
        f"<h1>{name}</h1><p>{report.images} images trained on, {after.count} held out; {report.steps} steps; "
        f"{report.share:.2%} of the transformer's parameters"
        + (f", rank {report.rank}" if report.rank else "")
        + f".<br>{escape(after.protocol)}, {after.steps} sampler step(s).<br><small>Time: {seconds}. Memory: {memory}."
        "</small></p>",
        _scores(report),
        _curves(report, folder),
        _picture("Best and worst held-out images", folder / "panel.png"),
        _forgetting(report.forgetting),
    ]
    return f"<!doctype html><meta charset=utf-8><title>{name}</title><style>{STYLE}</style>{''.join(parts)}"


def _scores(report: FewShotReport) -> str:
    rows = [("before", report.before.metrics), ("after", report.after.metrics)]
    rows += [(f"baseline: {label}", metrics) for label, metrics in report.after.baselines.items()]
    names = list(report.after.metrics)
    return _table(["", *names], [[label, *(metrics.get(name) for name in names)] for label, metrics in rows])


def _forgetting(forgotten: list[Forgotten]) -> str:
    if not forgotten:
        return ""
    if forgotten[0].off is None:  # the model itself was trained
        rows = [[f"{one.task}: {one.metric}", one.before, one.adapted] for one in forgotten]
        return "<h2>The model's own tasks</h2>" + _table(["", "before", "after"], rows)
    rows = [[f"{one.task}: {one.metric}", one.before, one.adapted, one.off] for one in forgotten]
    equal = "yes" if all(one.bit_equal for one in forgotten) else "no"
    return (
        "<h2>The model's own tasks</h2>"
        + _table(["", "before", "adapter on", "adapter off"], rows)
        + f"<p>Switched off, paints the same bits as before: {equal}.</p>"
    )


def _curves(report: FewShotReport, folder: Path) -> str:
    """Loss, metric while training, and metric against images, as far as there are any."""
    panels = []
    if losses := read_losses(folder):
        panels.append(("loss", "step", losses))
    if report.curve:
        points = [(float(point.step), point.value) for point in report.curve]
        panels.append((f"{report.after.primary}, {report.curve_on}", "step", points))
    if report.learning_curve:
        points = [(float(one["images"]), one["value"]) for one in report.learning_curve]
        panels.append((f"{report.after.primary}, held out", "images trained on", points))
    if not panels:
        return ""
    (folder / "curves.png").write_bytes(_plot(panels))
    return _picture("Curves", folder / "curves.png")


def _plot(panels: list[tuple[str, str, list[tuple[float, float]]]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 3), layout="constrained")
    for number, (title, below, points) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "", linewidth=1.2)
        axes.set(title=title, xlabel=below)
        axes.grid(alpha=0.3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()


def read_losses(folder: Path) -> list[tuple[float, float]]:
    """(step, loss) from all lines of a run's CSV logs, those of a resumed run in place of what it repeats."""
    found: dict[int, float] = {}
    for path in sorted((folder / "logs").glob("*/metrics.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found |= {int(row["step"]): float(row["loss"]) for row in rows if row.get("loss")}
    return [(float(step), loss) for step, loss in sorted(found.items())]


def _table(head: list[str], rows: list[list]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="n">{value:.3f}</td>' if isinstance(value, float) else '<td class="n">–</td>'


def _picture(title: str, path: Path) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{escape(title)}</h2><img src="data:image/png;base64,{data}" alt="{escape(title)}">'
