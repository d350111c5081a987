"""What the model's weights are worth to a new task: an adapter and full fine-tuning beside the same network from random
weights, at the same steps, and beside a small U-Net from random weights for as long as the adapter took.

python benchmarks/prior.py nuclei --images nuclei/images --targets nuclei/instances --tile
python benchmarks/prior.py membrane --images membrane/images --targets membrane/masks --invert --tile --last 6
python benchmarks/prior.py shadow

Every method has its own learning rate, the lowest of those that are best on a fifth of the images to train on; then
three seeds on all of them. The images measured on are the same for all. The same command goes on where it was stopped.
`--methods` does a part of it; a part may run beside another once the folders are made, but the U-Net comes after the
adapter, whose time it has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from unet import UNet

from diception.annotations import BinaryMask
from diception.config import AdapterConfig, FewShotConfig, load_config
from diception.datasets.folder import PairedFolder
from diception.datasets.mixture import PositionSampler, Source, Stream
from diception.datasets.sample import collate_training
from diception.datasets.synthetic import SyntheticScenes
from diception.evaluation import HeldOut
from diception.inference.turns import mean_of_views
from diception.model.checkpoint import load_model, save_model
from diception.model.diception import small_model
from diception.model.lora import base_hash
from diception.tables import format_table, write_report
from diception.tasks import task_for_kind
from diception.training.datamodule import build_augment
from diception.training.few_shot import adapt, open_folders
from diception.training.few_shot.measure import fitting
from diception.training.few_shot.recipe import augmentation

SIZE, IMAGES, HELD_OUT = 128, 50, 25
PARTS = ("train", "held", "fit", "choose")
ALIKE = 0.005
"""IoU within which rates are alike in choosing; the lowest of them is the farthest from diverging."""
KEYS = ("task", "images", "targets", "invert", "tile", "last", "steps", "overrides")
"""Options on which every result depends."""


@dataclass(frozen=True)
class Method:
    """One way to learn the task."""

    name: str
    rates: tuple[float, ...]
    """Tried in choosing."""
    adapter: bool = False
    random: bool = False
    unet: bool = False


METHODS = (
    Method("adapter", (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2), adapter=True),
    Method("full fine-tuning", (3e-4, 1e-3, 3e-3, 6e-3)),
    Method("random weights", (1e-3, 2e-3, 4e-3, 8e-3), random=True),
    Method("u-net", (1e-4, 3e-4, 1e-3, 3e-3), unet=True),
)


def prepare(arguments: argparse.Namespace, out: Path) -> None:
    """Folders `train` and `held`, and of `train` the parts `fit` and `choose`, each with images and targets.

    What all this was made with is noted beside them; another command wants another folder.
    """
    asked = {name: str(getattr(arguments, name)) for name in KEYS} | {"base": base_hash(load_model(arguments.model))}
    made = out / "options.json"
    if made.exists():
        differ = [name for name, value in json.loads(made.read_text()).items() if asked[name] != value]
        if differ:
            raise SystemExit(f"{out} has results for other {', '.join(differ)}; choose another --out")
        return
    for part in ("all", *PARTS):  # of a preparation that was interrupted
        if any(
            (out / part).resolve() in path.resolve().parents for path in (arguments.images, arguments.targets) if path
        ):
            raise SystemExit(f"{out / part} is where this writes; choose another --out")
        shutil.rmtree(out / part, ignore_errors=True)
    images, targets = arguments.images, arguments.targets
    if images is None:
        images, targets = render(arguments.task, out / "all")
    folder = PairedFolder(images, targets, "mask")
    if arguments.last:  # neighbours in a stack are alike: they must not be on both sides
        train, held = last_apart(folder, arguments.last)
        fit, choose = last_apart(train, len(train) // 5)
    else:
        rest, held = folder.split(HELD_OUT, 0)
        train = rest.first(IMAGES, 0) if len(rest) > IMAGES else rest
        fit, choose = train.split(len(train) // 5, 1)
    for part, pairs in zip(PARTS, (train, held, fit, choose), strict=True):
        for kind, files in zip(("images", "targets"), zip(*pairs.pairs, strict=True), strict=True):
            (out / part / kind).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, out / part / kind / file.name)
    write_report(made, asked)


def last_apart(folder: PairedFolder, count: int) -> tuple[PairedFolder, PairedFolder]:
    """(all but the last, the last) by name."""
    return folder.subset(list(range(len(folder) - count))), folder.subset(list(range(len(folder) - count, len(folder))))


def render(mask: str, out: Path) -> tuple[Path, Path]:
    """Scenes of domain two with a mask that no task of the model has, such as `shadow`."""
    scenes = SyntheticScenes(6 * (IMAGES + HELD_OUT), SIZE, 2, 3, mask=mask)
    for name in ("images", "targets"):
        (out / name).mkdir(parents=True, exist_ok=True)
    kept = 0
    for index in tqdm(range(len(scenes)), desc="render"):
        target = scenes[index].annotations["mask"].to_array()
        if kept < IMAGES + HELD_OUT and target.mean() > 0.01:
            Image.fromarray(scenes[index].image).save(out / "images" / f"{index:04}.png")
            Image.fromarray(target.astype(np.uint8) * 255).save(out / "targets" / f"{index:04}.png")
            kept += 1
    return out / "images", out / "targets"


def random_base(model: str, seed: int, out: Path) -> Path:
    """A model directory as `model`, with fresh weights in all but the autoencoder."""
    if not out.exists():
        base = load_model(model)
        shape = base.transformer.config
        fresh = small_model(
            base.autoencoder,  # type: ignore[arg-type]
            torch.Generator().manual_seed(seed),
            width=shape["num_attention_heads"] * shape["attention_head_dim"],
            layers=shape["num_layers"],
            heads=shape["num_attention_heads"],
            resolution=base.settings.resolution,
            text_width=shape["joint_attention_dim"],
            text_tokens=base.bank[[""]][0].shape[1],
            point_encoding=base.points.encoding,
            patch=shape["patch_size"],
        )
        save_model(fresh, out)
    return out


@dataclass
class Bench:
    """One data set, and the base that is tried."""

    out: Path
    model: str
    steps: int
    overrides: list[str]
    unet_seconds: float = 0.0

    def score(self, method: Method, rate: float, seed: int, train: str, held: str) -> dict[str, float]:
        """IoU on `held` after learning from `train`, and the seconds that learning took, latents included."""
        run = self.out / "runs" / f"{method.name.replace(' ', '-')}-{rate:g}-{train}-{seed}"
        file = run / "score.json"
        known = json.loads(file.read_text()) if file.exists() else None
        if known is None or (method.unet and known["seconds"] != self.unet_seconds):
            shutil.rmtree(run, ignore_errors=True)  # what was interrupted has other times
            config = self.config(method, rate, seed, train, held, run)
            value, seconds = learn_unet(config, self.unet_seconds) if method.unet else learned(config)
            write_report(file, {"iou": value, "seconds": seconds})
        return json.loads(file.read_text())

    def config(self, method: Method, rate: float, seed: int, train: str, held: str, run: Path) -> FewShotConfig:
        config = load_config("few_shot", self.overrides, FewShotConfig)
        config.model, config.name, config.out = self.model, "novel", str(run)
        config.images, config.targets = (str(self.out / train / kind) for kind in ("images", "targets"))
        config.val_images, config.val_targets = (str(self.out / held / kind) for kind in ("images", "targets"))
        config.steps, config.lr, config.seed = self.steps, rate, seed
        if method.random:
            config.model = str(random_base(self.model, seed, self.out / f"random-{seed}"))
        config.adapter = AdapterConfig() if method.adapter else None
        return config

    def best_rate(self, method: Method) -> float:
        found = {rate: self.score(method, rate, 0, "fit", "choose")["iou"] for rate in method.rates}
        best = min(rate for rate, value in found.items() if value >= max(found.values()) - ALIKE)
        top = max(found, key=found.__getitem__)
        edge = " (the best at an end of the range: try further)" if top in (method.rates[0], method.rates[-1]) else ""
        tried = ", ".join(f"{rate:g} {value:.3f}" for rate, value in found.items())
        print(f"{method.name}: {tried}{edge}", flush=True)
        return best


def learned(config: FewShotConfig) -> tuple[float, float]:
    """IoU of an adaptation, 0 where it diverged, and the seconds that its training took."""
    try:
        report = adapt(config, bar)
    except FloatingPointError as error:
        print(error)
        return 0.0, 0.0
    if report is None:
        raise SystemExit("stopped by a signal; the same command begins this run again")
    return report.after.value, report.seconds["train"]


def bar(items: Iterable) -> Iterable:
    return tqdm(items, leave=False)


def learn_unet(config: FewShotConfig, seconds: float) -> tuple[float, float]:
    """IoU and seconds of a U-Net on the same augmented pictures, its threshold fitted on the training images, too."""
    task = task_for_kind("mask", config.name)
    train, held = open_folders(config)
    zoom, size = config.zoom if config.tile else 0.0, config.size or SIZE
    augment = build_augment(augmentation(config))
    stream = Stream([Source("a", train, 1.0, {task.name: 1.0})], {task.name: task}, size, config.seed, augment)
    torch.manual_seed(config.seed)
    net, end = UNet(), time.perf_counter() + seconds
    optimizer = torch.optim.AdamW(net.parameters(), config.lr, weight_decay=1e-2)
    sampler = PositionSampler(config.batch_size, 0, 10**6, 0, 1, 1)
    for batch in DataLoader(stream, batch_sampler=sampler, collate_fn=collate_training):
        left = (end - time.perf_counter()) / seconds
        if left <= 0:
            break
        optimizer.param_groups[0]["lr"] = (
            config.lr * min(1.0, 20 * (1 - left)) * (0.01 + 0.99 * np.sin(left * np.pi / 2) ** 2)
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16-mixed"):
            logits = net(batch.image)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.target[:, :1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    task = task.calibrated(paint(net, fitting(HeldOut(task, train, len(train), size, zoom=zoom)), config.turns))
    evaluator = task.evaluator()
    for rgb, truth in paint(net, HeldOut(task, held, len(held), size, zoom=zoom), config.turns):
        evaluator.update(task.decode(rgb), truth)
    return evaluator.compute()["iou"], seconds


@torch.no_grad()
def paint(net: nn.Module, held_out: HeldOut, turns: bool) -> Iterator[tuple[np.ndarray, BinaryMask]]:
    """As the model paints; `turns`: the mean of a picture's views."""
    for example in held_out:
        image = torch.from_numpy(example.image)[None]
        mask = mean_of_views(lambda view, _: net(view).sigmoid(), image) if turns else net(image).sigmoid()
        yield mask[0].expand(3, -1, -1).numpy(), example.target.truth  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a name for the data; without --images, the mask of rendered scenes: shadow")
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--targets", type=Path, help="folder of their masks")
    parser.add_argument("--invert", action="store_true", help="the masks mark what is 0")
    parser.add_argument("--tile", action="store_true", help="learn and predict in windows at the images' own scale")
    parser.add_argument("--last", type=int, default=0, help="measure on the so many last by name (default: 25, any)")
    parser.add_argument("--methods", nargs="+", choices=[m.name for m in METHODS], help="do no more than these")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/prior"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of all adaptations: turns=true")
    arguments = parser.parse_intermixed_args()
    out = arguments.out / arguments.task
    prepare(arguments, out)
    options = [f"tile={arguments.tile}", f"invert={arguments.invert}", *arguments.overrides]
    bench, rows = Bench(out, arguments.model, arguments.steps, options), {}
    for method in METHODS:
        if arguments.methods and method.name not in arguments.methods:
            continue
        if method.unet:
            bench.unet_seconds = adapter_seconds(bench, arguments.seeds)
        rate = bench.best_rate(method)
        found = [bench.score(method, rate, seed, "train", "held") for seed in range(arguments.seeds)]
        values, seconds = [f["iou"] for f in found], statistics.median(f["seconds"] for f in found)
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        rows[method.name] = {"iou": statistics.mean(values), "deviation": deviation, "rate": rate, "seconds": seconds}
    print(format_table(list(rows.items()), ["iou", "deviation", "rate", "seconds"]))
    if len(rows) == len(METHODS):
        write_report(out / "prior.json", rows)


def adapter_seconds(bench: Bench, seeds: int) -> float:
    """What an adapter took on all images, which a U-Net has too."""
    adapter = METHODS[0]
    rate = bench.best_rate(adapter)
    return statistics.median(bench.score(adapter, rate, seed, "train", "held")["seconds"] for seed in range(seeds))


if __name__ == "__main__":
    main()
