"""Export: a run or a model with an adapter as a model directory that stands alone, with its card."""

from __future__ import annotations

from pathlib import Path

import torch

from diception.model.checkpoint import load_model, save_model
from diception.model.diception import Diception
from diception.model.lora import load_adapter, merge_adapter

CARD = """---
license: {licence}
library_name: diception
tags: [perception, depth, normals, segmentation, pose, flow-matching]
---
# A DICEPTION model

Base: {base}. Resolution: {resolution} px. Prompts, weights and settings are in this folder; nothing else is needed.

| task | token | encoding |
|---|---|---|
{tasks}

Training: {training}

```python
from diception import Pipeline

prediction = Pipeline.from_pretrained("path/of/this/folder")(image, task="{example}")
prediction.annotation
```
"""


def export_directory(
    run: str | Path, out: str | Path, adapter: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> Path:
    """Writes the model of a run folder (or of a model directory) to `out`.

    Args:
        run: a run folder with `model/` inside, a model directory, or `tiny`.
        out: must not exist.
        adapter: merged into the weights; its task joins the model's.
        dtype: of the stored transformer weights.

    Raises:
        ValueError: no model there, `out` exists, the adapter was made for another model.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose a folder that does not")
    trained = Path(run) / "model"
    model = load_model(trained if trained.is_dir() else run)
    if adapter is not None:
        info = load_adapter(model, adapter)
        merge_adapter(model)
        others = [task for task in model.settings.tasks if task["name"] != info.task["name"]]
        model.settings.tasks = [*others, info.task]
    save_model(model, out, dtype=dtype)
    (out / "README.md").write_text(model_card(model))
    return out


def model_card(model: Diception) -> str:
    """Markdown that says what the model does and how it was made."""
    settings = model.settings
    rows = [f"| {task['name']} | `{task['token']}` | {task['encoding']} |" for task in settings.tasks]
    return CARD.format(
        licence=settings.licence,
        base=settings.base_model,
        resolution=settings.resolution,
        tasks="\n".join(rows),
        training=", ".join(f"{key} {value}" for key, value in settings.training.items()) or "not recorded",
        example=settings.tasks[0]["name"] if settings.tasks else "depth",
    )
