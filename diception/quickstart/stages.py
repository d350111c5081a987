"""The stages of the quick start, each resumable: shards, evaluate, train, evaluate, adapt, export, predict, report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from diception.annotations import BinaryMask
from diception.config import FewShotConfig, SamplingConfig, TrainConfig, load_config
from diception.datasets.convert import Conversion, convert
from diception.datasets.images import read_image
from diception.datasets.sample import Sample
from diception.datasets.shards import ShardReader
from diception.datasets.synthetic import THERMAL, SyntheticScenes
from diception.evaluation import HeldOut, evaluate_tasks
from diception.export import export_directory
from diception.inference import Pipeline
from diception.model.checkpoint import load_model
from diception.panel import Row, predict_rows, save_panel
from diception.quickstart.report import write_report
from diception.training.few_shot import adapt
from diception.training.run import train

ASSETS = Path(__file__).parent.parent / "assets"
NEW_TASK = "nearest"
MEANING = "the thing closest to the camera"
DOMAIN = THERMAL


@dataclass
class QuickstartSettings:
    """How much of everything; the defaults take about five minutes on two cores."""

    out: Path
    model: str = "tiny"
    photo: Path = ASSETS / "astronaut.jpg"
    scenes: int = 2000
    """Scenes before a thermal camera, to train on."""
    held_out: int = 64
    """The same to measure on."""
    steps: int = 600
    """Optimizer steps of the training leg."""
    adapter_steps: int = 500
    """Optimizer steps of the 50-image adaptation."""
    adapter_images: int = 50
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=1, guidance_scale=1.0))


def run_quickstart(settings: QuickstartSettings) -> Path:
    """Runs every stage that is not done yet and returns the path of `report.html`."""
    read_image(settings.photo)  # both refuse what cannot be read before minutes are spent
    Pipeline.from_pretrained(settings.model)
    settings.out.mkdir(parents=True, exist_ok=True)
    _check_same(settings)
    stages: list[tuple[str, Callable[[QuickstartSettings], None]]] = [
        ("scenes that the shipped model has not seen, as shards", _shards),
        ("the shipped model on them", _before),
        ("multi-task training on them", _train),
        ("the trained model on the same held-out scenes", _after),
        (f"a new task, {NEW_TASK!r}, from {settings.adapter_images} images", _adapt),
        ("export", _export),
        ("prediction on a photograph, by the export, in a fresh process", _predict),
    ]
    seconds = _read(settings.out / "seconds.json") or {}
    for number, (title, stage) in enumerate(stages, 1):
        print(f"[{number}/{len(stages)}] {title}", flush=True)
        start = time.perf_counter()
        stage(settings)
        seconds[title] = max(seconds.get(title, 0), time.perf_counter() - start)
        (settings.out / "seconds.json").write_text(json.dumps(seconds, indent=1))
    return write_report(settings.out, NEW_TASK, MEANING)


def _check_same(settings: QuickstartSettings) -> None:
    """Refuses a folder that was begun with other settings, but for the photograph; remembers them in a new one."""
    lasting = {key: str(value) for key, value in asdict(settings).items() if key not in ("out", "photo")}
    path = settings.out / "settings.json"
    known = _read(path)
    if known is not None and {key: value for key, value in known.items() if key != "photo"} != lasting:
        raise ValueError(f"{settings.out} holds a quick start with other settings; choose another --out")
    if known is None:
        path.write_text(json.dumps(lasting, indent=1))


def _shards(settings: QuickstartSettings) -> None:
    for name, count, seed in (("train", settings.scenes, 1), ("held_out", settings.held_out, 2)):
        scenes = SyntheticScenes(count, _resolution(settings), DOMAIN, seed)
        with tqdm(total=count, unit="scene", desc=name) as bar:
            options = Conversion(500, source="rendered by this project")
            convert(scenes, settings.out / "shards" / name, options, lambda done, bar=bar: _move(bar, done))


def _move(bar: tqdm, done: int) -> None:
    bar.update(done - bar.n)


def _before(settings: QuickstartSettings) -> None:
    _measure(settings, settings.model, "before")


def _after(settings: QuickstartSettings) -> None:
    _measure(settings, settings.out / "train" / "model", "after")


def _measure(settings: QuickstartSettings, model: str | Path, name: str) -> None:
    """Scores and a panel of a model on the held-out scenes."""
    if (settings.out / f"{name}.json").exists():
        return
    pipeline = Pipeline.from_pretrained(model)
    reader = ShardReader(str(settings.out / "shards" / "held_out" / "*.tar"))
    size, tasks = _resolution(settings), list(pipeline.tasks.values())
    scores = evaluate_tasks(pipeline.model, tasks, reader, [settings.sampling], settings.held_out, size)
    rows: list[Row] = []
    for task in tasks:
        rows += predict_rows(pipeline.model, HeldOut(task, reader, 2, size), settings.sampling, 1)
    save_panel(rows, settings.out / f"{name}.png")
    _write(settings.out / f"{name}.json", [score.as_dict() for score in scores])


def _train(settings: QuickstartSettings) -> None:
    if (settings.out / "train" / "model").exists():
        return
    config = load_config("quickstart", schema=TrainConfig)
    config.run, config.steps, config.model.base = str(settings.out / "train"), settings.steps, settings.model
    config.data.size = _resolution(settings)
    for source in [*config.data.sources, *config.data.validation]:
        source.shards = source.shards.replace("OUT", str(settings.out))
    if train(config) is None:
        raise KeyboardInterrupt  # a signal came; the same command goes on


def _adapt(settings: QuickstartSettings) -> None:
    folder, model = settings.out / "few_shot", settings.out / "train" / "model"
    if (settings.out / "adapter" / "report.json").exists():
        return
    held_out = settings.adapter_images // 2
    count = 4 * (settings.adapter_images + held_out)
    scenes = SyntheticScenes(count, _resolution(settings), DOMAIN, 3, mask=NEW_TASK)
    _write_pairs((scenes[index] for index in range(len(scenes))), folder, settings.adapter_images + held_out)
    config = load_config("few_shot", schema=FewShotConfig)
    config.model, config.name, config.kind = str(model), NEW_TASK, "mask"
    config.images, config.targets = str(folder / "images"), str(folder / "masks")
    config.out, config.steps, config.held_out = str(settings.out / "adapter"), settings.adapter_steps, held_out
    if adapt(config, lambda items: tqdm(items, desc="measure", unit="image", leave=False)) is None:
        raise KeyboardInterrupt


def _write_pairs(scenes: Iterable[Sample], folder: Path, count: int) -> None:
    """Images and masks as two folders of PNG files, as a user would bring them; empty masks are left out."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    kept = (s for s in scenes if _mask(s).mean() > 0.01)
    for _, sample in zip(tqdm(range(count), desc="pictures", unit="pair"), kept, strict=False):
        Image.fromarray(sample.image).save(folder / "images" / f"{sample.key}.png")
        Image.fromarray(_mask(sample).astype(np.uint8) * 255).save(folder / "masks" / f"{sample.key}.png")


def _mask(sample: Sample) -> NDArray[np.bool_]:
    annotation = sample.annotations["mask"]
    assert isinstance(annotation, BinaryMask)
    return annotation.mask


def _export(settings: QuickstartSettings) -> None:
    out, adapter = settings.out / "model", settings.out / "adapter" / "adapter.safetensors"
    if not out.exists():
        export_directory(settings.out / "train", out, adapter)


def _predict(settings: QuickstartSettings) -> None:
    shown = settings.out / "photo" / "input.png"
    photo = read_image(settings.photo)
    if shown.exists() and np.array_equal(read_image(shown), photo):
        return
    shutil.rmtree(shown.parent, ignore_errors=True)  # answers to another photograph
    command = [sys.executable, "-m", "diception", "predict", "--model", str(settings.out / "model"), "--task", "all"]
    command += ["--image", str(settings.photo), "--points", "0.3,0.45", "--category", "person"]
    command += ["--steps", str(settings.sampling.steps), "--guidance-scale", "1", "--out", str(settings.out / "photo")]
    subprocess.run(command, check=True)
    Image.fromarray(photo).save(shown)


def _resolution(settings: QuickstartSettings) -> int:
    return load_model(settings.model).settings.resolution


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def _write(path: Path, content: list) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
