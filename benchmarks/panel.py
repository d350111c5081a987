"""The README's picture: the embedded model's answers on the first held-out scenes of all three domains.

python benchmarks/panel.py --out docs/images/panel.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from small_runs import SIZE

from diception import Pipeline
from diception.datasets.synthetic import held_out_scenes
from diception.evaluation import HeldOut
from diception.panel import predict_rows, save_panel

SHOWN = {
    1: ("depth", "normal", "entity_segmentation", "semantic_segmentation", "point_segmentation", "pose"),
    2: ("depth",),
    3: ("foreground",),
}
"""Tasks by domain; each shows the first scene that serves it."""
SCENES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("docs/images/panel.png"))
    arguments = parser.parse_args()
    pipeline, rows = Pipeline.from_pretrained(arguments.model), []
    for domain, names in SHOWN.items():
        reader = held_out_scenes(SCENES, SIZE, domain)
        for name in names:
            task = pipeline.tasks[name]
            sampling = pipeline.adapters.sampling(task)
            rows += predict_rows(pipeline.model, HeldOut(task, reader, 1, SIZE), sampling, 1)
    save_panel(rows, arguments.out)


if __name__ == "__main__":
    main()
