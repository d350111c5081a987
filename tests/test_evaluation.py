"""Evaluation: fixed questions, the same numbers over any ranks, perfect scores for the truth, honest baselines."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import TASKS
from small import make_model
from torch import Tensor, nn

from diception.annotations import BinaryMask, InstanceMasks, Keypoints
from diception.config import SamplingConfig
from diception.datasets.sample import Example, MemoryReader, Sample
from diception.datasets.synthetic import render_scene
from diception.evaluation import (
    HeldOut,
    evaluate,
    evaluate_baselines,
    evaluate_tasks,
    predictions,
    stretched,
)
from diception.model.diception import ModelSettings
from diception.panel import GAP, TILE, draw_panel, predict_rows
from diception.tables import format_scores
from diception.tasks import Task, get_task, known_tasks, task_for_kind
from diception.tasks.base import Evaluator
from diception.tasks.instances import MaskRecords

SIZE = 64
ONE_STEP = SamplingConfig(steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def reader() -> MemoryReader:
    """Nine scenes, one of them without people, and between them a picture without annotations."""
    samples = [render_scene(0, index, SIZE) for index in range(9)]
    samples[2].annotations["pose"] = Keypoints(np.zeros((0, 17, 3)), (SIZE, SIZE), np.zeros(0))
    samples.insert(4, Sample("bare", samples[0].image))
    return MemoryReader(samples)


def held_out(task: str | Task, reader: MemoryReader, count: int = 8, rank: int = 0, world: int = 1) -> HeldOut:
    chosen = get_task(task) if isinstance(task, str) else task
    share, own = HeldOut(chosen, reader, count, SIZE, seed=5).share(rank, world)
    share.indices = share.indices[:own]
    return share


def content(example: Example) -> tuple[str, str, int, bytes, bytes, bytes]:
    target = example.target
    points = target.points.tobytes() + target.point_mask.tobytes()
    return example.key, target.prompt, example.seed, example.image.tobytes(), target.rgb.tobytes(), points


class Oracle(nn.Module):
    """Knows the target of every image and flows straight to it; its latents are the pixels."""

    def __init__(self, examples: list[Example]):
        super().__init__()
        self.known = {example.image.tobytes(): torch.from_numpy(example.target.rgb) for example in examples}
        self.settings = ModelSettings(resolution=SIZE)
        self.autoencoder = SimpleNamespace(factor=1, channels=3)
        self.device = torch.device("cpu")

    def encode(self, rgb: Tensor) -> Tensor:
        return rgb

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clamp(0, 1)

    def condition(self, prompts: list[str], points: Tensor, point_mask: Tensor, size: tuple[int, int]) -> list[str]:
        assert len(prompts) == len(points) == len(point_mask) and size == (SIZE, SIZE)
        return prompts

    def velocity(self, latents: Tensor, sigmas: Tensor, image_latents: Tensor, condition: list[str]) -> Tensor:
        targets = torch.stack([self.known[image.numpy().tobytes()] for image in image_latents])
        return (latents - targets) / sigmas[:, None, None, None]


@pytest.mark.parametrize("task", TASKS)
def test_the_questions_are_fixed(reader: MemoryReader, task: str) -> None:
    first, again = ([content(e) for e in held_out(task, reader)] for _ in range(2))
    assert first == again and first
    one = held_out(task, reader)
    assert [content(e) for e in one] == first == [content(e) for e in one]
    fewer = [content(e) for e in held_out(task, reader, count=3)]
    assert fewer == first[:3]


def test_another_seed_asks_other_questions(reader: MemoryReader) -> None:
    task = get_task("point_segmentation")
    points = [[e.target.points.tolist() for e in HeldOut(task, reader, 8, SIZE, seed)] for seed in (0, 1)]
    assert points[0] != points[1]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("world", [2, 3, 16])
def test_ranks_share_the_samples_and_nothing_else(reader: MemoryReader, task: str, world: int) -> None:
    whole = [content(e) for e in held_out(task, reader)]
    parts = [held_out(task, reader, rank=rank, world=world) for rank in range(world)]
    own = [[content(e) for e in part] for part in parts]
    assert sorted(e for part in own for e in part) == sorted(whole)
    assert sum(map(len, parts)) == len(whole)
    assert own == [whole[rank::world] for rank in range(world)]


def test_only_samples_that_serve_count(reader: MemoryReader) -> None:
    keys = [sample.key for sample in reader.samples if sample.key != "bare"]
    assert [e.key for e in held_out("depth", reader, count=99)] == keys
    assert [e.key for e in held_out("pose", reader, count=99)] == keys[:2] + keys[3:]


@pytest.mark.parametrize("task", [task.name for task in known_tasks()])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_truth_scores_what_its_painting_lets_through(reader: MemoryReader, task: str, steps: int) -> None:
    data = held_out(task, reader)
    score = evaluate(Oracle(list(data)), data, SamplingConfig(steps, 1.0), batch_size=3)  # type: ignore[arg-type]
    direct = data.task.evaluator()
    for example in data:
        direct.update(data.task.decode(example.target.rgb), example.target.truth)
    assert score.metrics == pytest.approx(direct.compute(), abs=1e-3, nan_ok=True)
    # These paintings hold the whole annotation, but for the clipped ends of depth.
    perfect = {"depth": 0.03, "normal": 0.1, "point_segmentation": 0.9999, "foreground": 0.9999}
    if task in perfect:
        assert score.value > perfect[task] if score.higher_is_better else score.value < perfect[task]
    assert (score.count, score.size, score.steps, score.seed) == (len(data), SIZE, steps, 5)
    assert score.protocol == data.task.evaluator().protocol


@pytest.mark.parametrize("task", TASKS)
def test_merged_evaluators_equal_one(reader: MemoryReader, task: str) -> None:
    model = make_model()

    def gathered(rank: int, world: int) -> Evaluator:
        data = held_out(task, reader, rank=rank, world=world)
        evaluator = data.task.evaluator()
        # Mixed with the target, so that there is something to find.
        pairs = zip(predictions(model, data, ONE_STEP, batch_size=2), data, strict=True)
        for (rgb, truth), example in pairs:
            assert truth.to_bytes() == example.target.truth.to_bytes()
            evaluator.update(data.task.decode(0.2 * rgb + 0.8 * example.target.rgb), truth)
        return evaluator

    one, parts = gathered(0, 1), [gathered(rank, 2) for rank in range(2)]
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(one.compute(), nan_ok=True, abs=1e-6)


def _rank(rank: int, folder: Path, reader: MemoryReader) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    tasks = [get_task("depth"), get_task("point_segmentation"), get_task("pose")]
    scores = evaluate_tasks(make_model(), tasks, reader, [ONE_STEP], count=7, size=SIZE)
    (folder / f"{rank}.json").write_text(json.dumps([score.as_dict() for score in scores]))
    dist.destroy_process_group()


def test_two_processes_report_what_one_does(reader: MemoryReader, tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_rank, (tmp_path, reader), nprocs=2, start_method="fork")
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert both[0] == both[1]
    tasks = [get_task("depth"), get_task("point_segmentation"), get_task("pose")]
    alone = evaluate_tasks(make_model(), tasks, reader, [ONE_STEP], count=7, size=SIZE)
    for one, other in zip(alone, both[0], strict=True):
        assert one.metrics == pytest.approx(other["metrics"], abs=1e-6)
        assert one.baselines.keys() == other["baselines"].keys()
        for name, metrics in one.baselines.items():
            assert metrics == pytest.approx(other["baselines"][name])


def test_the_mean_of_the_others_by_hand(reader: MemoryReader) -> None:
    data = held_out("depth", reader, count=5)
    targets = [example.target for example in data]
    evaluator = data.task.evaluator()
    for index, target in enumerate(targets):
        others = [t.rgb.astype(np.float64) for number, t in enumerate(targets) if number != index]
        evaluator.update(data.task.decode(np.mean(others, axis=0).astype(np.float32)), target.truth)
    assert evaluate_baselines(data)["mean image"] == pytest.approx(evaluator.compute(), rel=1e-5)


def test_the_mean_is_taken_within_a_prompt(reader: MemoryReader) -> None:
    data = held_out("semantic_segmentation", reader)
    targets = [example.target for example in data]
    evaluator = data.task.evaluator()
    for index, target in enumerate(targets):
        same = [t.rgb for number, t in enumerate(targets) if number != index and t.prompt == target.prompt]
        mean = np.mean(same, axis=0).astype(np.float32) if same else np.full_like(target.rgb, 0.5)
        evaluator.update(data.task.decode(mean), target.truth)
    assert len({t.prompt for t in targets}) > 1
    assert evaluate_baselines(data)["mean image"] == pytest.approx(evaluator.compute(), abs=1e-6)


def test_baselines_ignore_the_image(reader: MemoryReader) -> None:
    black = MemoryReader([Sample(s.key, np.zeros_like(s.image), s.annotations) for s in reader.samples])
    for task in TASKS:
        seen, unseen = (evaluate_baselines(held_out(task, one)) for one in (reader, black))
        assert seen and seen.keys() == unseen.keys()
        for name in seen:
            assert seen[name] == pytest.approx(unseen[name], nan_ok=True)


def test_data_that_serves_nothing_has_no_score(reader: MemoryReader) -> None:
    bare = MemoryReader([sample for sample in reader.samples if sample.key == "bare"])
    model = make_model()
    tasks = (get_task(name) for name in ("depth", "pose"))
    assert evaluate_tasks(model, tasks, bare, [ONE_STEP], count=4, size=SIZE) == []
    with pytest.raises(ValueError, match="no sample of the given data serves task 'depth'"):
        evaluate(model, held_out("depth", bare), ONE_STEP)


def test_tasks_without_data_are_left_out_and_every_sampling_is_scored(reader: MemoryReader) -> None:
    tasks = [get_task("depth"), get_task("normal")]
    depth_only = [
        Sample(s.key, s.image, {k: a for k, a in s.annotations.items() if k == "depth"}) for s in reader.samples
    ]
    samplings = [ONE_STEP, SamplingConfig(2, 2.0)]
    scores = evaluate_tasks(make_model(), tasks, MemoryReader(depth_only), samplings, count=3, size=SIZE)
    assert [(s.task, s.steps, s.guidance_scale) for s in scores] == [("depth", 1, 1.0), ("depth", 2, 2.0)]
    table = format_scores(scores)
    assert "1 step, guidance 1" in table and "2 steps, guidance 2" in table and "baseline: mean image" in table
    assert f"{scores[0].value:.3f}" in table and scores[0].protocol in table


def test_a_panel_has_one_row_a_sample(reader: MemoryReader) -> None:
    model, data = make_model(), held_out("point_segmentation", reader)
    rows = predict_rows(model, data, ONE_STEP, 2)
    assert [row.title for row in rows] == [e.target.prompt for e in list(data)[:2]]
    assert all(len(row.tiles) == 4 for row in rows)
    assert draw_panel(rows).width == GAP + 4 * (TILE + GAP)
    assert draw_panel(rows).height - draw_panel(rows[:1]).height >= TILE
    assert len(predict_rows(model, data, ONE_STEP, 99)) == len(data)
    assert predict_rows(model, data, ONE_STEP, 1, skip=99) == []


def test_a_mask_that_finds_two_overlapping_truths_counts_once() -> None:
    truths = np.zeros((2, 10, 10), bool)
    truths[0], truths[1, :, :8] = True, True
    records = MaskRecords()
    records.add(InstanceMasks(truths[:1], ("",)), InstanceMasks(truths, ("", "")))
    assert records.quality() == pytest.approx(2 / 3), "one of two found, at IoU 1"


def test_a_threshold_among_equals_is_the_middle_one() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    painted = np.where(mask, 0.95, 0.05).astype(np.float32)[None].repeat(3, axis=0)
    fitted = task_for_kind("mask", "crack").calibrated([(painted, BinaryMask(mask))])
    assert fitted.as_dict()["threshold"] == pytest.approx(0.5)


def test_the_mean_of_others_of_other_sizes_has_nothing_of_the_sample_itself() -> None:
    """Stripes finer than the size at which the mean is taken would leave their edges in it."""
    task, rng = task_for_kind("mask", "stripes"), np.random.default_rng(0)
    masks = [rng.random((side, side)) < 0.5 for side in (32, 64, 48, 64)]
    samples = [Sample(str(i), np.zeros((*m.shape, 3), np.uint8), {"mask": BinaryMask(m)}) for i, m in enumerate(masks)]
    data = HeldOut(task, MemoryReader(samples), 4, 32, zoom=1.0)
    targets = [example.target.rgb.astype(np.float64) for example in data]
    own, evaluator = data.task, data.task.evaluator()
    for index, example in enumerate(data):
        others = [stretched(rgb, targets[0]) for number, rgb in enumerate(targets) if number != index]
        mean = stretched(np.mean(others, axis=0), targets[index])
        evaluator.update(own.baselines(mean.astype(np.float32), example.target)["mean image"], example.target.truth)
    assert evaluate_baselines(data)["mean image"] == pytest.approx(evaluator.compute(), abs=1e-6)
