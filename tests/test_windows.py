"""Windows of large pictures: they cover everything, agree where they overlap, and leave no seam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shots import plan
from small import generator, make_model, pictures

from diception.annotations import BinaryMask, LabelMap
from diception.config import FewShotConfig, SamplingConfig
from diception.datasets.images import own_size
from diception.datasets.mixture import Source, Stream
from diception.datasets.sample import Batch, MemoryReader, Sample
from diception.datasets.synthetic import render_scene
from diception.datasets.transforms import Augment
from diception.evaluation import HeldOut, evaluate, evaluate_tasks
from diception.flow import seeded_noise
from diception.inference import Pipeline, generate
from diception.inference.windows import Windows
from diception.model.adapters import read_info, save_adapter
from diception.model.lora import add_lora
from diception.tables import format_scores
from diception.tasks import get_task, task_for_kind
from diception.training.few_shot import adapt

SIDES = st.integers(4, 40).map(lambda cells: 16 * cells)


def ask(image: torch.Tensor) -> Batch:
    count = len(image)
    return Batch(
        image=image,
        target=None,
        valid=None,
        prompts=["[[image2normal]]"] * count,
        points=torch.zeros(count, 5, 2),
        point_mask=torch.zeros(count, 5, dtype=torch.bool),
        tasks=["normal"] * count,
        keys=["a"] * count,
        seeds=torch.arange(count),
    )


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES)
def test_windows_cover_a_picture_overlap_by_a_quarter_and_mean_what_they_agree_on(height: int, width: int) -> None:
    windows = Windows(height, width, 64)
    for scale in (1, 8):
        whole = torch.randn(1, 2, height // scale, width // scale, generator=generator())
        parts = windows.cut(whole)
        assert parts.shape == (len(windows.places), 2, 64 // scale, 64 // scale)
        torch.testing.assert_close(windows.join(parts), whole)  # nothing is left out, nothing is scaled
        noisy = windows.agree(parts + torch.randn(parts.shape, generator=generator(1)))
        torch.testing.assert_close(windows.agree(noisy), noisy)
    tops = sorted({top for top, _ in windows.places})
    assert tops[0] == 0 and tops[-1] == height - 64
    assert all(later - sooner <= 64 - 16 + 8 for sooner, later in zip(tops, tops[1:], strict=False))
    with pytest.raises(ValueError, match="do not fit a picture"):
        Windows(48, width, 64)


def test_a_picture_of_one_window_is_painted_as_without() -> None:
    model, batch = make_model(), ask(pictures(2))
    plain, tiled = (generate(model, batch, SamplingConfig(3, 1.5, window)) for window in (0, 64))
    assert torch.equal(plain, tiled)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_windows_follow_one_velocity_where_they_overlap(guidance: float) -> None:
    """So pictures of a batch do not mix, and given noise is what the seeds draw."""
    model, image = make_model(), pictures(2, 128)
    sampling = SamplingConfig(2, guidance, window=64)
    painted = generate(model, ask(image), sampling)
    assert painted.shape == (2, 3, 128, 128)
    alone = generate(model, replace(ask(image[1:]), seeds=torch.tensor([1])), sampling)
    torch.testing.assert_close(painted[1:], alone)
    noise = seeded_noise(torch.arange(2), (16, 16, 16))
    torch.testing.assert_close(generate(model, ask(image), sampling, noise), painted)


def test_there_is_no_seam() -> None:
    """Of a picture that looks the same everywhere, differences across the windows' borders are as elsewhere."""
    pipeline = Pipeline.from_pretrained("tiny")
    rng = np.random.default_rng(0)
    image = rng.integers(90, 166, (320, 320, 3), dtype=np.uint8)
    painted = pipeline(image, task="normal", tile=True, steps=2).rgb.numpy()  # type: ignore[union-attr]
    steps = np.abs(np.diff(painted, axis=2)).mean(axis=(0, 1))
    borders = sorted({left + end for _, left in Windows(320, 320, 128).places for end in (0, 128)} - {0, 320})
    assert all(border % 16 == 0 for border in borders)
    patches = np.arange(15, 319, 16)  # the edges of the transformer's patches show everywhere
    assert steps[[border - 1 for border in borders]].mean() < 1.2 * np.median(steps[patches])


@pytest.mark.parametrize(
    ("size", "wanted"), [((500, 333), (496, 336)), ((64, 102), (128, 208)), ((128, 128), (128, 128))]
)
def test_a_tiled_image_keeps_its_size_or_is_scaled_up(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert own_size(size, 128) == wanted
    assert own_size(wanted, 64, zoom=2) == (2 * wanted[0], 2 * wanted[1])
    pipeline = Pipeline.from_pretrained("tiny")
    prediction = pipeline(np.zeros((*size, 3), np.uint8), task="normal", tile=True, steps=1)
    assert prediction.rgb.shape[1:] == wanted and prediction.annotation.size == size  # type: ignore[union-attr]


def test_what_needs_the_whole_picture_is_not_tiled() -> None:
    pipeline = Pipeline.from_pretrained("tiny")
    image = np.zeros((200, 200, 3), np.uint8)
    for task in ("depth", "pose", "entity_segmentation"):
        with pytest.raises(ValueError, match=f"'{task}' needs the whole picture"):
            pipeline(image, task=task, tile=True)
    with pytest.raises(ValueError, match="tile and keep_aspect"):
        pipeline(image, task="normal", tile=True, keep_aspect=True)
    with pytest.raises(ValueError, match="at least 128"):
        pipeline(image, task="normal", tile=True, size=(64, 256))
    assert not get_task("depth").local and task_for_kind("mask", "crack").local


def test_windows_to_train_on_are_parts_of_the_image_at_its_own_scale() -> None:
    image = np.arange(200 * 300, dtype=np.uint32).reshape(200, 300)
    coded = np.stack([image & 255, image >> 8, np.zeros_like(image)], axis=-1).astype(np.uint8)
    sample = Sample("a", np.ascontiguousarray(coded[:192, :288]), {"mask": BinaryMask(image[:192, :288] % 7 == 0)})
    for seed in range(20):
        found = Augment(windows=1.0)(sample, 64, np.random.default_rng(seed))
        numbers = found.image[..., 0].astype(int) + 256 * found.image[..., 1].astype(int)
        assert found.size == (64, 64) and np.array_equal(
            numbers, numbers[0, 0] + np.arange(64) + 300 * np.arange(64)[:, None]
        )
        assert np.array_equal(found.annotations["mask"].to_array(), numbers % 7 == 0)
    tops = {int(Augment(windows=1.0)(sample, 64, np.random.default_rng(s)).image[0, 0, 1]) for s in range(40)}
    assert len(tops) > 20
    twice = Augment(windows=2.0)(sample, 64, np.random.default_rng(0))
    assert twice.size == (64, 64) and np.ptp(twice.image[0, :, 0].astype(int) % 64) < 34  # 32 pixels, enlarged


@pytest.mark.parametrize("zoom", [1.0, 1.5])
def test_a_task_is_learned_and_measured_in_windows(tmp_path: Path, zoom: float) -> None:
    """Images of several sizes, each predicted at its own or enlarged, as the adapter then does by itself."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index, (height, width) in enumerate([(150, 200), (200, 150), (128, 128), (90, 300)]):
        image = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(((image[..., 0] > 128) * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{index}.png")
    config = FewShotConfig(
        images=str(tmp_path / "images"), targets=str(tmp_path / "masks"), name="bright", out=str(tmp_path / "out")
    )
    config.steps, config.batch_size, config.held_out, config.workers, config.tile = 2, 2, 2, 0, True
    config.sampling, config.zoom = SamplingConfig(1, 1.0), zoom
    report = adapt(config)
    assert report.after.count == 2 and report.after.baselines and (tmp_path / "out" / "panel.png").exists()
    answer = Pipeline.from_pretrained("tiny", adapter=tmp_path / "out")(tmp_path / "images" / "0.png", task="bright")
    assert answer.rgb.shape[1:] == own_size((150, 200), 128, zoom) and answer.annotation.size == (150, 200)  # type: ignore[union-attr]
    config.tile, config.zoom = False, 2.0
    with pytest.raises(ValueError, match=r"zoom is 2.0.*add tile"):
        adapt(config)
    config.tile, config.zoom = True, 1.0
    config.kind, config.out = "depth", str(tmp_path / "depth")
    with pytest.raises(ValueError, match="kind depth needs the whole picture"):
        adapt(config)


def test_a_task_learned_in_windows_is_evaluated_in_them() -> None:
    samples = [render_scene(0, index, 96) for index in range(2)]
    task, model = task_for_kind("mask", "novel"), make_model()
    for zoom, side in ((1.0, 96), (2.0, 192)):
        sampling = SamplingConfig(1, 1.0, window=64, zoom=zoom)
        [score] = evaluate_tasks(model, [task], MemoryReader(samples), [sampling], count=2, size=64)
        held_out = HeldOut(task, MemoryReader(samples), 2, 64, zoom=zoom)
        assert [example.target.truth.size for example in held_out] == [(side, side)] * 2
        assert score.metrics == evaluate(model, held_out, sampling).metrics
        assert score.zoom == zoom and f"in windows of 64 px at {zoom:g} x their size" in format_scores([score])
    [whole] = evaluate_tasks(model, [task], MemoryReader(samples), [SamplingConfig(1, 1.0)], count=2, size=64)
    assert whole.zoom == 0 and "at 64 px" in format_scores([whole])


def test_an_adapter_remembers_the_size_it_was_trained_at(base: Path, pairs: Path, tmp_path: Path) -> None:
    report = adapt(plan(base, pairs, tmp_path / "out", size=32))
    assert report is not None and read_info(report.adapter).sampling["size"] == 32
    pipeline = Pipeline.from_pretrained(base, adapter=report.adapter)
    image = render_scene(0, 7, 64).image
    assert pipeline(image, "novel").rgb.shape[-2:] == (32, 32)
    assert pipeline(image, "depth").rgb.shape[-2:] == (64, 64)
    assert pipeline(image, "novel", size=(64, 64)).rgb.shape[-2:] == (64, 64)


def test_a_window_in_which_nothing_counts_is_drawn_again() -> None:
    """A picture of which only a corner has labels is never shown as a whole, at another scale."""
    image = np.arange(400 * 400, dtype=np.uint32).reshape(400, 400)
    coded = np.stack([image & 255, image >> 8 & 255, image >> 16], axis=-1).astype(np.uint8)
    labels = np.full((400, 400), 255, np.uint16)
    labels[:70, :70] = 1
    task = task_for_kind("labels", "corner", labels=("ground", "corner"))
    source = Source("a", MemoryReader([Sample("s", coded, {"labels": LabelMap(labels)})]), 1.0, {"corner": 1.0})
    stream = Stream([source], {"corner": task}, 64, 0, Augment(windows=1.0))
    counting = 0
    for example in (stream[position] for position in range(30)):
        bytes_ = np.rint(example.image * 255).astype(int)
        numbers = bytes_[0] + 256 * bytes_[1] + 65536 * bytes_[2]
        assert np.array_equal(numbers, numbers[0, 0] + np.arange(64) + 400 * np.arange(64)[:, None])
        counting += bool(example.target.valid.any())
    assert counting > 20


def test_a_task_learned_in_windows_is_asked_at_its_own_size_unless_told(tmp_path: Path) -> None:
    model = make_model()
    add_lora(model, 2)
    task = task_for_kind("mask", "novel")
    model.bank.add([task.token])
    file = save_adapter(model, tmp_path / "novel", [task.as_dict()], sampling={"window": 32, "steps": 1})
    pipeline = Pipeline(make_model(), [get_task("depth")])
    pipeline.load_adapter(file)
    image = np.zeros((48, 48, 3), np.uint8)
    for options, side in (({}, 48), ({"tile": True, "size": (48, 48)}, 48), ({"tile": False}, 32)):
        assert pipeline(image, "novel", **options).rgb.shape[-2:] == (side, side)  # type: ignore[arg-type, union-attr]
    with pytest.raises(ValueError, match="both must be at least 32"):
        pipeline(image, "novel", tile=True, size=(16, 48))
