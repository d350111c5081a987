"""One question of every task to a pipeline."""

from __future__ import annotations

from diception.inference import Pipeline, Prediction

SIZE = (50, 78)
"""(H, W) of the picture: not square, not a multiple of anything."""
POINTS = [(0.25, 0.75), (0.5, 0.5)]
QUESTIONS = {
    "depth": {},
    "normal": {},
    "pose": {},
    "foreground": {},
    "entity_segmentation": {},
    "point_segmentation": {"points": POINTS},
    "semantic_segmentation": {"category": "person"},
}


def ask(pipeline: Pipeline, image, task: str = "depth", **options) -> Prediction:  # noqa: ANN001
    prediction = pipeline(image, task=task, steps=options.pop("steps", 2), **(QUESTIONS[task] | options))
    assert isinstance(prediction, Prediction)
    return prediction
