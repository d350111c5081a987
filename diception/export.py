"""Export: a run, a model with an adapter or the released weights as a model directory that stands alone; and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diception.card import Measured, model_card
from diception.config import SamplingConfig
from diception.model.adapters import load_adapter
from diception.model.checkpoint import load_model, save_model, text_encoder_loader
from diception.model.diception import Diception
from diception.model.lora import merge_adapter, use_adapters
from diception.model.release import from_release, to_release
from diception.tasks import released_tasks
from diception.tasks.categories import COCO_CATEGORIES

Adapters = str | Path | Mapping[str | Path, float]
"""One, or several with the weights of their changes."""
BEST, BEST_NOTE = Path("checkpoints", "best.safetensors"), "diception_best"
"""Where a run folder keeps the weights with the lowest validation loss."""


def export_directory(
    run: str | Path,
    out: str | Path,
    adapter: Adapters | None = None,
    dtype: torch.dtype = torch.float32,
    best: bool = False,
    autoencoder_dtype: torch.dtype | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    about: str = "",
    measured: Sequence[Measured] = (),
) -> Path:
    """Writes the model of a run folder (or of a model directory) to `out`.

    Args:
        run: a run folder with `model/` inside, a model directory, or `tiny`.
        out: must not exist.
        adapter: merged into the weights, or several with the weights of their changes; their tasks join the model's.
        dtype: of the stored transformer weights.
        best: the run's weights with the lowest validation loss, not those of its end.
        autoencoder_dtype: of the stored autoencoder weights; their own by default.
        steps: denoising steps that serve the model best, for whoever does not say; its own by default.
        guidance_scale: the same for guidance.
        about: what the model is for, for its card.
        measured: evaluations, for its card.

    Raises:
        ValueError: no model there, no validation was run, `out` exists, the adapter was made for another model.
    """
    out = _new(out)
    model = _load(run)
    if best:
        _fill(model, Path(run) / BEST)
    _merge(model, adapter)
    settings = model.settings
    sampling = SamplingConfig(
        settings.steps if steps is None else steps,
        settings.guidance_scale if guidance_scale is None else guidance_scale,
    )
    settings.steps, settings.guidance_scale = sampling.steps, sampling.guidance_scale
    return _write(model, out, model_card(model, about, measured), dtype, autoencoder_dtype)


def export_release(run: str | Path, out: str | Path, adapter: Adapters | None = None) -> Path:
    """Writes the weights as the released `.pth`, in their stored type, for whoever runs the released code.

    Args:
        run: as `export_directory` takes it; its points must be Fourier features.
        out: the file; must not exist.
        adapter: merged into the weights.

    Raises:
        ValueError: what `export_directory` refuses, or a model that the released code cannot load.
    """
    out = _new(out)
    model = _load(run, dtype=None)
    _merge(model, adapter)
    values = to_release(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    torch.save(values, partial)
    partial.replace(out)
    return out


def import_release(
    base: str | Path,
    release: str | Path,
    out: str | Path,
    point_order: str = "yx",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a model directory from Stable Diffusion 3 and the released weights.

    Its prompt bank knows every released task and the 80 COCO categories, so that no text encoder is needed again.

    Args:
        base: Stable Diffusion 3 in diffusers' layout, with its text encoders.
        release: the released `.pth`.
        out: must not exist.
        point_order: `yx` or `xy`, see `from_release`.
        device: where the text encoders run, once.
        dtype: of the text encoders and of the stored prompts; the weights keep their own.

    Raises:
        ValueError: files that are missing or do not fit, `out` exists.
    """
    out = _new(out)
    model = from_release(base, release, point_order, device, dtype)
    if text_encoder_loader(Path(base), device, dtype) is None:
        raise ValueError(f"{base} has no text encoders; they are needed once, for the prompts")
    tasks = released_tasks()
    model.settings.tasks = [task.as_dict() for task in tasks]
    categories = {True: COCO_CATEGORIES, False: (None,)}
    model.bank.add(["", *(task.prompt(c) for task in tasks for c in categories[task.takes_category])])
    return _write(model, out, model_card(model), None)


def _new(out: str | Path) -> Path:
    if Path(out).exists():
        raise ValueError(f"{out} exists; choose a name that does not")
    return Path(out)


def _load(run: str | Path, dtype: torch.dtype | None = torch.float32) -> Diception:
    """The model of a run folder or a model directory; None keeps the stored type."""
    trained, adapter = Path(run) / "model", Path(run) / "adapter.safetensors"
    if adapter.exists() and not trained.is_dir():
        raise ValueError(f"{run} holds an adapter and no model: export its base with --merge-adapter {adapter}")
    return load_model(trained if trained.is_dir() else run, dtype=dtype)


def _merge(model: Diception, adapter: Adapters | None) -> None:
    """Folds adapters into the weights; their tasks join the model's."""
    if adapter is None:
        return
    weighed: dict[str, float] = {}
    for path, weight in (adapter if isinstance(adapter, Mapping) else {adapter: 1.0}).items():
        info = load_adapter(model, path, f"merged_{len(weighed)}")
        weighed[info.name] = weight
        known = {task["name"]: task for task in [*model.settings.tasks, *info.tasks]}
        model.settings.tasks = list(known.values())
        for task in info.tasks:
            model.settings.sampling.pop(task["name"], None)
            if info.sampling:
                model.settings.sampling[task["name"]] = dict(info.sampling)
        names = ", ".join(task["name"] for task in info.tasks)
        model.settings.training = {"merged": f"the adapter of {names} x {weight:g}", **info.training} | {
            "before": model.settings.training
        }
    use_adapters(model, weighed)
    merge_adapter(model)


@torch.no_grad()
def _fill(model: Diception, weights: Path) -> None:
    """Trained weights by name into a model; a ValueError where they are not its."""
    if not weights.is_file():
        raise ValueError(f"no {weights}: the run has validated nothing yet")
    own, stored = dict(model.named_parameters()), load_file(weights)
    if strange := sorted(stored.keys() - own):
        raise ValueError(f"{weights} has weights that the model does not have: {', '.join(strange[:5])}")
    for name, tensor in stored.items():
        own[name].copy_(tensor)
    with safe_open(str(weights), framework="pt") as file:
        model.settings.training["steps"] = json.loads(file.metadata()[BEST_NOTE])["step"]


def _write(
    model: Diception, out: Path, card: str, dtype: torch.dtype | None, autoencoder_dtype: torch.dtype | None = None
) -> Path:
    return save_model(model, out, dtype=dtype, autoencoder_dtype=autoencoder_dtype, card=card)
