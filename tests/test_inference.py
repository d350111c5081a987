"""Inference: one answer whatever form the image has, batches that equal singles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from asking import POINTS, QUESTIONS, SIZE, ask
from numpy.typing import NDArray
from PIL import Image
from small import generator, make_model

from diception.annotations import KINDS, DepthMap, NormalMap, load
from diception.config import SamplingConfig
from diception.datasets.sample import MemoryReader, Sample, collate
from diception.datasets.synthetic import render_scene
from diception.datasets.transforms import square
from diception.evaluation import HeldOut
from diception.inference import Pipeline, Prediction, Request, generate, make_batch, to_array, to_uint8
from diception.sampler import sample_euler, sigma_schedule
from diception.tasks import known_tasks


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(make_model(), known_tasks())


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def test_the_form_of_the_image_does_not_matter(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()) / 255
    answers = [ask(pipeline, form).rgb for form in (image, Image.fromarray(image), tensor)]
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_a_grey_or_transparent_picture_is_read_as_rgb() -> None:
    assert to_array(Image.new("L", (4, 3), 7)).tolist() == np.full((3, 4, 3), 7).tolist()
    assert to_array(Image.new("RGBA", (4, 3), (1, 2, 3, 0))).shape == (3, 4, 3)


def test_uint8_and_floats_are_inverse(image: NDArray[np.uint8]) -> None:
    assert np.array_equal(to_uint8(image.transpose(2, 0, 1) / np.float32(255)), image)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_list_equals_singles(pipeline: Pipeline, image: NDArray[np.uint8], guidance_scale: float) -> None:
    images = [image, image[::-1].copy(), image[:20, :30].copy()]
    together = pipeline(images, "point_segmentation", points=POINTS, steps=2, guidance_scale=guidance_scale)
    assert isinstance(together, list) and len(together) == 3
    for one, answer in zip(images, together, strict=True):
        alone = ask(pipeline, one, "point_segmentation", guidance_scale=guidance_scale)
        torch.testing.assert_close(answer.rgb, alone.rgb, atol=1e-5, rtol=0)
        assert answer.annotation.size == one.shape[:2]
    assert pipeline([], "depth") == []
    (single,) = pipeline((image,), "depth", steps=2)  # type: ignore[misc]
    assert torch.equal(single.rgb, ask(pipeline, image).rgb)


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    other = image[::-1, :60].copy()
    requests = [
        Request(image, "depth", seed=3),
        Request(other, "point_segmentation", points=POINTS),
        Request(image, "semantic_segmentation", category="person"),
        Request(other, "depth", seed=3),
    ]
    for keep_aspect in (False, True):
        together = dict(pipeline.answer(requests, steps=2, keep_aspect=keep_aspect))
        assert sorted(together) == [0, 1, 2, 3]
        for index, request in enumerate(requests):
            [(_, alone)] = pipeline.answer([request], steps=2, keep_aspect=keep_aspect)
            assert torch.equal(alone.rgb, together[index].rgb)
        batched = dict(pipeline.answer(requests, steps=2, keep_aspect=keep_aspect, batch_size=3))
        for index, prediction in together.items():
            assert batched[index].task is prediction.task
            torch.testing.assert_close(batched[index].rgb, prediction.rgb, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("image_size", "expected"), [((50, 78), (48, 64)), ((200, 50), (64, 16)), ((9, 9), (64, 64))])
def test_the_aspect_is_kept_on_request(
    pipeline: Pipeline, image_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    prediction = ask(pipeline, np.full((*image_size, 3), 90, np.uint8), keep_aspect=True)
    assert prediction.rgb.shape == (3, *expected) and prediction.annotation.size == image_size


def test_files_are_opened_and_a_broken_one_is_named(
    pipeline: Pipeline, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(ask(pipeline, path).rgb, ask(pipeline, image).rgb)
    with pytest.raises(ValueError, match=r"b\.png"):
        ask(pipeline, tmp_path / "b.png")
    Image.fromarray(np.zeros((32, 32), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif: image has pixel type 'F'"):
        pipeline(tmp_path / "float.tif", task="depth")


def test_the_seed_fixes_the_answer(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    torch.manual_seed(1)
    first = ask(pipeline, image, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.rgb, ask(pipeline, image, seed=3).rgb)
    assert not torch.equal(first.rgb, ask(pipeline, image, seed=4).rgb)


def test_given_noise_replaces_the_seed(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    noise = torch.randn(1, 16, 8, 8, generator=generator())
    answer = ask(pipeline, image, noise=noise, seed=1)
    assert torch.equal(answer.rgb, ask(pipeline, image, noise=noise, seed=2).rgb)
    assert not torch.equal(answer.rgb, ask(pipeline, image, seed=1).rgb)
    shared = pipeline([image, image], "depth", steps=2, noise=noise)
    assert isinstance(shared, list)
    torch.testing.assert_close(shared[1].rgb, answer.rgb, atol=1e-5, rtol=0)


def test_the_model_works_at_the_size_asked_for(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    assert ask(pipeline, image).rgb.shape == (3, 64, 64)
    answer = ask(pipeline, image, size=(32, 48))
    assert answer.rgb.shape == (3, 32, 48) and answer.annotation.size == SIZE
    for size in [(20, 32), (32, 0), (-16, 16)]:
        with pytest.raises(ValueError, match="multiples of 16"):
            ask(pipeline, image, size=size)
    with pytest.raises(ValueError):
        ask(pipeline, image, size=(128, 128))


@pytest.mark.parametrize("steps", [1, 3])
def test_guidance_of_one_is_the_conditional_model_alone(pipeline: Pipeline, steps: int) -> None:
    model = pipeline.model
    scenes = MemoryReader([render_scene(0, index, 64) for index in range(2)])
    batch = collate(list(HeldOut(pipeline.get_task("point_segmentation"), scenes, 2, 64)))
    noise = torch.randn(2, 16, 8, 8, generator=generator())
    condition = model.condition(batch.prompts, batch.points, batch.point_mask)
    image_latents = model.encode(batch.image)

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return model.velocity(latents, sigma.expand(2), image_latents, condition)

    with torch.no_grad():
        own = model.decode(sample_euler(velocity, noise, sigma_schedule(steps, model.settings.shift)))
    torch.testing.assert_close(generate(model, batch, SamplingConfig(steps, 1.0), noise), own, atol=1e-6, rtol=0)
    # A little above 1 guidance runs, and its limit is the same.
    near = generate(model, batch, SamplingConfig(steps, 1 + 1e-6), noise)
    torch.testing.assert_close(near, own, atol=1e-3, rtol=0)
    assert not torch.allclose(generate(model, batch, SamplingConfig(steps, 5.0), noise), own, atol=1e-3)


def test_points_and_categories_change_the_answer(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    noise = torch.randn(1, 16, 8, 8, generator=generator())
    painted = [
        ask(pipeline, image, "point_segmentation", noise=noise, points=points).rgb
        for points in ([(0.25, 0.75)], [(0.75, 0.25)], POINTS)
    ]
    painted += [ask(pipeline, image, "semantic_segmentation", noise=noise, category=c).rgb for c in ("box", "person")]
    assert all(not torch.equal(a, b) for i, a in enumerate(painted) for b in painted[:i])


def test_progress_sees_every_step(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    seen: list[int] = []
    ask(pipeline, image, steps=5, progress=lambda steps: (seen.append(1) or step for step in steps))
    assert len(seen) == 5


@pytest.mark.parametrize("task", QUESTIONS)
def test_the_annotation_has_the_size_of_the_image(pipeline: Pipeline, image: NDArray[np.uint8], task: str) -> None:
    prediction = ask(pipeline, image, task)
    assert prediction.task.name == task
    assert type(prediction.annotation) in KINDS.values()
    assert prediction.annotation.size == SIZE
    assert prediction.visualize().shape == (*SIZE, 3) and prediction.visualize().dtype == np.uint8
    assert np.array_equal(prediction.image, image)
    assert prediction.rgb.min() >= 0 and prediction.rgb.max() <= 1


@pytest.mark.parametrize("task", QUESTIONS)
def test_saved_files_load_back(pipeline: Pipeline, image: NDArray[np.uint8], task: str, tmp_path: Path) -> None:
    prediction = ask(pipeline, image, task)
    files = prediction.save(tmp_path / "deep" / f"photo.v2.{task}")
    assert sorted(files) == sorted((tmp_path / "deep").iterdir()) and len(set(files)) == 3
    assert all(file.name.startswith(f"photo.v2.{task}.") for file in files)
    back = load(prediction.annotation.kind, files[0])
    assert type(back) is type(prediction.annotation) and back.size == SIZE
    # Depth is kept in full; a normal to half a step of 8 bits; a joint to a thousandth of a pixel.
    tolerance = 1 / 255 if isinstance(back, NormalMap) else 5e-4
    own = prediction.annotation.to_array().astype(np.float64)
    assert np.abs(back.to_array().astype(np.float64) - own).max(initial=0) <= (
        0 if isinstance(back, DepthMap) else tolerance
    )
    assert np.array_equal(np.asarray(Image.open(files[1])), prediction.visualize())
    assert np.array_equal(np.asarray(Image.open(files[2])), to_uint8(prediction.rgb.numpy()))


def test_the_embedded_model_answers_every_task_it_names() -> None:
    tiny = Pipeline.from_pretrained("tiny")
    assert set(tiny.tasks) >= set(QUESTIONS) - {"foreground"}
    side = tiny.model.settings.resolution
    picture = render_scene(0, 0, 64).image
    for task in QUESTIONS.keys() - {"foreground"}:
        assert ask(tiny, picture, task, steps=1).rgb.shape == (3, side, side)


def test_a_picture_is_shown_as_training_shows_it_or_as_the_released_code_does(pipeline: Pipeline) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (100, 70, 3), dtype=np.uint8)
    question = pipeline.check("depth", None, None, 0)
    own, released = (make_batch([picture], [question], (64, 64), lanczos).image for lanczos in (False, True))
    shown = square(Sample("a", picture), 64).image.transpose(2, 0, 1) / np.float32(255)
    assert torch.equal(own[0], torch.from_numpy(shown))
    expected = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.LANCZOS))
    assert torch.equal(released[0], torch.from_numpy(expected.transpose(2, 0, 1) / np.float32(255)))


def test_points_may_be_an_array(pipeline: Pipeline, image: NDArray[np.uint8]) -> None:
    points = np.array([[0.5, 0.3]])
    one, other = (pipeline(image, task="point_segmentation", points=p, steps=1) for p in (points, points.tolist()))
    assert isinstance(one, Prediction) and isinstance(other, Prediction) and torch.equal(one.rgb, other.rgb)
    with pytest.raises(ValueError, match="takes no points, but 1 were given"):
        pipeline(image, task="depth", points=points)
