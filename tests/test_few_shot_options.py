"""Adaptation's options: latents made once, curves, stopping early, one step, few bits, what the model forgets."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.weights import write_stable_diffusion
from PIL import Image
from shots import PAIRS, content, plan

from diception.cli import main
from diception.config import AugmentConfig, FewShotConfig, FlowConfig, SamplingConfig, TrainConfig, load_config
from diception.datasets.folder import PairedFolder
from diception.datasets.mixture import Source, Stream
from diception.datasets.sample import collate_training, join_batches
from diception.datasets.synthetic import render_scene
from diception.datasets.transforms import Augment
from diception.inference import Pipeline, Prediction
from diception.model.adapters import read_adapter
from diception.model.checkpoint import load_model
from diception.tasks import get_task
from diception.training.few_shot import FewShotReport, adapt
from diception.training.few_shot.curve import Curve
from diception.training.few_shot.forgetting import Forgetting
from diception.training.few_shot.pairs import open_folders, split_for_stopping
from diception.training.latents import LatentStream, encode
from diception.training.module import DiceptionModule
from diception.training.stopping import Stop

IMAGE = render_scene(1, 0, 64).image


def made(config: FewShotConfig) -> FewShotReport:
    report = adapt(config)
    assert report is not None
    return report


@pytest.mark.parametrize("frozen", ["fp32", "bf16"])
def test_a_task_is_learned_on_stable_diffusion_itself(frozen: str, pairs: Path, tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd3")
    config = plan(tmp_path / "sd3", pairs, tmp_path / "out", size=64, base_precision=frozen, precision="bf16-mixed")
    adapter = made(config).adapter
    base = tmp_path / "out" / "base"
    answer = Pipeline.from_pretrained(base, adapter=adapter)(IMAGE, task="novel", steps=1)
    assert isinstance(answer, Prediction) and answer.rgb.shape == (3, 64, 64)
    assert load_model(base).settings.resolution == 64
    assert main(["export", str(base), "--merge-adapter", adapter, "--out", str(tmp_path / "merged")]) == 0


def stream_of(pairs: Path, crop: float) -> Stream:
    folder = PairedFolder(pairs / "images", pairs / "mask", "mask")
    task = get_task("foreground")
    augment = Augment(hflip=0.5, scale=(crop, 1.0) if crop < 1 else None)
    return Stream([Source("a", folder, 1.0, {task.name: 1.0})], {task.name: task}, 64, 0, augment)


def test_latents_made_once_are_those_of_the_stream(base: Path, pairs: Path) -> None:
    model, stream = load_model(base), stream_of(pairs, 0.5)
    examples = encode(model, stream, 2 * PAIRS)
    latents = LatentStream(stream.pairs, stream.seed, examples)
    assert sorted(examples.keys) == sorted(2 * [str(n) for n in range(PAIRS)])
    epochs = [[latents[turn + epoch * 2 * PAIRS] for turn in range(2 * PAIRS)] for epoch in range(2)]
    assert all(sorted(n for n, _ in epoch) == list(range(2 * PAIRS)) for epoch in epochs)
    assert [n for n, _ in epochs[0]] != [n for n, _ in epochs[1]]
    assert len({seed for epoch in epochs for _, seed in epoch}) == 4 * PAIRS
    module = DiceptionModule(model, TrainConfig(flow=FlowConfig(prompt_dropout=0.0)))
    numbers = [3, 0, 5]
    cached = latents.collate([(number, 7 + number) for number in numbers])
    plain = collate_training([stream[number] for number in numbers])
    plain.seeds = cached.seeds
    with torch.no_grad():
        torch.testing.assert_close(module.losses(cached)[0], module.losses(plain)[0], atol=1e-5, rtol=1e-4)
    again = join_batches([examples.select([0, 1]), examples.select(range(2, 2 * PAIRS))])
    assert again.keys == examples.keys and again.latents is not None
    assert torch.equal(again.latents, examples.latents)


def test_cached_latents_train_a_working_adapter(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = made(plan(base, pairs, tmp_path / "out", cached=3, tile=True, augment=AugmentConfig()))
    again = made(plan(base, pairs, tmp_path / "again", cached=3, tile=True, augment=AugmentConfig()))
    assert content(report.adapter) == content(again.adapter)
    assert read_adapter(report.adapter)[1].sampling["window"] == 64


def test_the_report_has_its_curves_and_pictures(base: Path, pairs: Path, tmp_path: Path) -> None:
    config = plan(base, pairs, tmp_path / "out", validate_every=1, learning_curve=[1, 3], forgetting=2)
    report = made(config)
    assert [point.step for point in report.curve] == [1, 2, 3] and report.curve_on == "held-out images"
    assert [point["images"] for point in report.learning_curve] == [1, 3, 4]
    assert report.learning_curve[-1]["value"] == report.after.value
    assert {one.task for one in report.forgetting} >= {"depth", "normal", "pose"}
    assert all(one.bit_equal and one.before == pytest.approx(one.off, nan_ok=True) for one in report.forgetting)
    assert any(one.adapted != one.before for one in report.forgetting)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "paints the same bits as before: yes" in page
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["steps"] == 3 and stored["rank"] > 0 and stored["memory_gb"]["peak"] > 0.1
    assert stored["memory_gb"]["estimated"] > 0 and stored["seconds"]["train"] > 0
    with pytest.raises(ValueError, match="learning_curve has 4; allowed are 1 to 3"):
        adapt(replace(config, out=str(tmp_path / "other"), learning_curve=[4]))


def test_a_signal_in_the_learning_curve_ends_all_and_the_time_before_it_counts(
    base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Stop.on_train_start

    def signalled(stop: Stop, trainer: Any, module: Any) -> None:
        begin(stop, trainer, module)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Stop, "on_train_start", signalled)
    assert adapt(plan(base, pairs, tmp_path / "out", learning_curve=[1, 3])) is None
    assert [path.name for path in (tmp_path / "out" / "learning_curve").iterdir()] == ["1"]
    assert not (tmp_path / "out" / "checkpoints").exists()
    monkeypatch.undo()
    times = tmp_path / "out" / "times.json"
    assert 0 < json.loads(times.read_text())["1 images"] < 1000
    times.write_text('{"1 images": 1000}')
    seconds = made(plan(base, pairs, tmp_path / "out", learning_curve=[1, 3])).seconds
    assert seconds["1 images"] > 1000 > seconds["3 images"] > 0


def test_smaller_sets_are_within_larger_and_parts_are_as_bright(pairs: Path) -> None:
    folder = PairedFolder(pairs / "images", pairs / "mask", "mask")
    sets = [set(folder.first(count, 3).keys) for count in range(1, PAIRS + 1)]
    assert all(small < large for small, large in zip(sets, sets[1:], strict=False))
    rest, held_out = folder.split(2, 0)
    assert set(rest.keys) | set(held_out.keys) == set(folder.keys) and len(held_out) == 2
    order = sorted(folder.keys, key=lambda key: np.asarray(Image.open(pairs / "images" / f"{key}.png")).mean())
    assert [sum(key in held_out.keys for key in part) for part in (order[:3], order[3:])] == [1, 1]
    assert {folder.split(2, seed)[1].keys[0] for seed in range(8)} > {held_out.keys[0]}


def test_patience_ends_the_run_with_the_best_weights(base: Path, pairs: Path, tmp_path: Path) -> None:
    """At a rate of next to nothing no measurement is better than the first."""
    config = plan(base, pairs, tmp_path / "out", patience=2, validate_every=1, steps=9, lr=1e-12)
    report = made(config)
    assert (report.steps, report.images, report.curve_on) == (3, 3, "images that decide when to stop")
    again = made(config)
    assert content(again.adapter) == content(report.adapter) and again.steps == 3, "the same command adds nothing"


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    weights, values = {"a": torch.zeros(1)}, iter([0.1, 0.5, 0.4, 0.3])
    curve = Curve(lambda: None, 1, 2, tmp_path / "curve.jsonl")  # type: ignore[arg-type, return-value]
    for step in range(4):
        weights["a"].fill_(step)
        score = type("S", (), {"primary": "iou", "value": next(values), "higher_is_better": True})()
        curve._note(step, score, weights)
        assert curve.stopped == (step == 3)
    curve.keep_best(weights)
    assert weights["a"].item() == 1
    other = Curve(lambda: None, 1, 2, tmp_path / "curve.jsonl")  # type: ignore[arg-type, return-value]
    other.load_state_dict(curve.state_dict())
    assert other.stopped and other.points == curve.points


def test_one_step_answers_the_same_for_every_seed(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = made(plan(base, pairs, tmp_path / "out", one_step=True, sampling=SamplingConfig(4, 2.0)))
    assert report.after.steps == 1 and read_adapter(report.adapter)[1].sampling["start"] == "zero"
    pipeline = Pipeline.from_pretrained(base, adapter=report.adapter)
    answers = [pipeline(IMAGE, task="novel", seed=seed) for seed in (0, 1)]
    assert all(isinstance(answer, Prediction) for answer in answers)
    assert torch.equal(answers[0].rgb, answers[1].rgb)  # type: ignore[union-attr]
    scores = tmp_path / "scores.json"
    asked = ["--tasks", "novel", "--domain", "3", "--count", "2", "--steps", "1", "3", "--out", str(scores)]
    assert main(["evaluate", "--model", str(base), "--adapter", str(report.adapter), *asked]) == 0
    found = {(score["task"], score["steps"]) for score in json.loads(scores.read_text())["scores"]}
    assert found == {("novel", 1)}
    with pytest.raises(ValueError, match="flow.start=zero needs flow.share_at_one=1"):
        FlowConfig(start="zero")


def test_a_base_in_four_bits_is_adapted_and_the_adapter_knows_it_in_full(
    base: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("bitsandbytes")
    report = made(plan(base, pairs, tmp_path / "out", base_precision="nf4", steps=6, forgetting=1))
    plain = made(plan(base, pairs, tmp_path / "plain", steps=6))
    assert report.share == pytest.approx(plain.share) and report.share <= 0.01
    assert report.memory_gb["estimated"] < plain.memory_gb["estimated"]
    tensors, info = read_adapter(report.adapter)
    assert info.base_hash == read_adapter(plain.adapter)[1].base_hash
    assert any(tensor.any() for name, tensor in tensors.items() if ".lora_B." in name)
    answer = Pipeline.from_pretrained(base, adapter=report.adapter)(IMAGE, task="novel")
    assert isinstance(answer, Prediction)


def test_a_base_in_bfloat16_is_measured_as_it_is_trained(base: Path, pairs: Path, tmp_path: Path) -> None:
    options = {"base_precision": "bf16", "precision": "bf16-mixed", "steps": 2, "forgetting": 1}
    report = made(plan(base, pairs, tmp_path / "out", learning_curve=[2], **options))
    assert report.after.count == 2 and len(report.learning_curve) == 2
    assert all(one.bit_equal for one in report.forgetting)


def test_without_an_adapter_there_is_nothing_to_switch_off(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = made(plan(base, pairs, tmp_path / "out", adapter=None, forgetting=1))
    assert report.forgetting and all(one.off is None and one.bit_equal is None for one in report.forgetting)
    assert "Switched off" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"cached": -1}, "cached is -1; it must be 0 or more"),
        ({"patience": -2}, "patience is -2; it must be 0 or more"),
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"zoom": 0.0}, "zoom is 0.0; it must be above 0"),
    ],
)
def test_numbers_out_of_range_are_named(base: Path, pairs: Path, tmp_path: Path, option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(plan(base, pairs, tmp_path / "out"), **option)


def test_other_steps_are_another_adaptation(base: Path, pairs: Path, tmp_path: Path) -> None:
    made(plan(base, pairs, tmp_path / "out"))
    with pytest.raises(ValueError, match="other steps"):
        adapt(plan(base, pairs, tmp_path / "out", steps=5))


FRESH = """
import sys, torch
from diception.datasets.synthetic import render_scene
from diception.export import export_directory
from diception.inference import Pipeline
base, adapter, out = sys.argv[1:]
image = render_scene(1, 0, 64).image
merged = export_directory(base, out + "/merged", adapter)
rgb = [p(image, task="novel", steps=2, guidance_scale=1.0).rgb for p in (
    Pipeline.from_pretrained(base, adapter=adapter), Pipeline.from_pretrained(merged))]
torch.save(rgb, out + "/rgb.pt")
"""


def test_a_fresh_process_and_a_merge_predict_the_same(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = made(plan(base, pairs, tmp_path / "out", steps=20))
    subprocess.run([sys.executable, "-c", FRESH, str(base), report.adapter, str(tmp_path)], check=True, timeout=120)
    own = Pipeline.from_pretrained(base, adapter=report.adapter)(IMAGE, task="novel", steps=2, guidance_scale=1.0)
    without = Pipeline.from_pretrained(base)
    without.tasks |= {"novel": Pipeline.from_pretrained(base, adapter=report.adapter).tasks["novel"]}
    plain = without(IMAGE, task="novel", steps=2, guidance_scale=1.0)
    assert isinstance(own, Prediction) and isinstance(plain, Prediction)
    assert (own.rgb - plain.rgb).abs().max() > 1e-3, "the adapter does something"
    for rgb in torch.load(tmp_path / "rgb.pt", weights_only=True):
        torch.testing.assert_close(rgb, own.rgb, atol=1e-5, rtol=0)


@pytest.mark.parametrize("memory", ["8gb", "12gb", "24gb", "80gb"])
def test_the_presets_fit_the_schema_and_the_batch(memory: str) -> None:
    config = load_config(f"presets/{memory}", schema=FewShotConfig)
    assert config.batch_size % config.accumulate == 0 and config.cached and config.precision == "bf16-mixed"


def test_pairs_that_decide_when_to_stop_are_checked_and_remembered(base: Path, pairs: Path, tmp_path: Path) -> None:
    own = tmp_path / "pairs"
    shutil.copytree(pairs, own)
    config = plan(base, own, tmp_path / "out", patience=2, validate_every=1)
    _, stopping = split_for_stopping(open_folders(config)[0], config)
    assert stopping is not None
    target = Path(stopping.pairs[0][1])
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=target.name):
        made(config)
    assert not (tmp_path / "out").exists(), "refused before anything is written"
    target.write_bytes(whole)
    made(config)
    Image.fromarray(255 - np.asarray(Image.open(target))).save(target)
    with pytest.raises(ValueError, match="holds an adaptation with other stopping"):
        made(config)


def test_the_models_own_tasks_are_measured_as_they_are_answered(base: Path, pairs: Path, tmp_path: Path) -> None:
    model = load_model(base)
    model.settings.sampling = {"normal": {"window": 32, "zoom": 2.0}, "depth": {"size": 48}}
    forgetting = Forgetting(model, plan(base, pairs, tmp_path / "out", forgetting=1), iter)
    asked = {one.task.name: (one.size, one.zoom) for one in forgetting.asked}
    assert asked["normal"] == (32, 2.0) and asked["depth"] == (48, 0.0) and asked["pose"] == (64, 0.0)
