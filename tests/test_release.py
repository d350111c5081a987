"""The released weights: the released code's numbers through the public interface, and the file back bit by bit."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden.weights import GOLDEN, release, write_stable_diffusion
from torch import Tensor

from diception.cli import main
from diception.config import SamplingConfig
from diception.export import export_release, import_release
from diception.inference import Pipeline, Prediction, denoise, make_batch
from diception.model.checkpoint import load_model
from diception.model.release import read_release, to_release
from diception.sampler import sigma_schedule
from diception.tasks.categories import COCO_CATEGORIES

POINTS = [(0.5, 0.3), (0.2, 0.7)]


@dataclass(frozen=True)
class Case:
    """One run of the released code."""

    name: str
    task: str
    guidance: float
    steps: int
    order: str = "yx"
    points: tuple[tuple[float, float], ...] = ()
    category: str | None = None


CASES = (
    Case("depth_cfg2_s4", "depth", 2.0, 4),
    Case("depth_cfg1_s1", "depth", 1.0, 1),
    Case("seg_cfg2_s4", "point_segmentation", 2.0, 4, "xy", tuple(POINTS)),
    Case("seg_yx_cfg2_s2", "point_segmentation", 2.0, 2, "yx", tuple(POINTS)),
    Case("semantic_cfg2_s2", "semantic_segmentation", 2.0, 2, category="person"),
)
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, the released file, and the model imported from them in either order of points."""
    root = tmp_path_factory.mktemp("released")
    write_stable_diffusion(root / "sd3")
    torch.save(release(), root / "DICEPTION_v1.pth")
    for order in ("yx", "xy"):
        import_release(root / "sd3", root / "DICEPTION_v1.pth", root / order, order)
    return root


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def pipelines(files: Path) -> dict[str, Pipeline]:
    return {order: Pipeline.from_pretrained(files / order) for order in ("yx", "xy")}


def relative(found: Tensor, expected: np.ndarray) -> float:
    reference = torch.from_numpy(expected.astype(np.float32))
    return float((found - reference).norm() / reference.norm())


@cases
def test_schedules_are_the_released_ones(golden: dict[str, np.ndarray], case: Case) -> None:
    sigmas = sigma_schedule(case.steps, 3.0)
    assert relative(sigmas.float(), golden[f"{case.name}/sigmas"]) < 1e-6
    assert relative(1000 * sigmas[:-1].float(), golden[f"{case.name}/timesteps"]) < 1e-6


@cases
def test_latents_are_the_released_ones(
    pipelines: dict[str, Pipeline], golden: dict[str, np.ndarray], case: Case
) -> None:
    pipeline = pipelines[case.order]
    request = pipeline.check(case.task, case.points, case.category)
    batch = make_batch([golden["image_u8"]], [request], (128, 128))
    noise = torch.from_numpy(golden["init_latents"])
    latents = denoise(pipeline.model, batch, SamplingConfig(case.steps, case.guidance), noise)
    assert relative(latents, golden[f"{case.name}/latents"]) < 1e-5


@cases
def test_pictures_are_the_released_ones_through_the_pipeline(
    pipelines: dict[str, Pipeline], golden: dict[str, np.ndarray], case: Case
) -> None:
    prediction = pipelines[case.order](
        golden["image_u8"],
        task=case.task,
        points=case.points or None,
        category=case.category,
        steps=case.steps,
        guidance_scale=case.guidance,
        noise=torch.from_numpy(golden["init_latents"]),
        size=(128, 128),
    )
    assert isinstance(prediction, Prediction)
    expected = torch.from_numpy(golden[f"{case.name}/image"].astype(np.float32))
    expected = expected.squeeze(0) if expected.ndim == 4 else expected
    expected = expected.permute(2, 0, 1) if expected.shape[-1] == 3 else expected
    assert (prediction.rgb - expected).abs().max() < 2e-3


def test_the_other_order_of_points_is_another_answer(
    pipelines: dict[str, Pipeline], golden: dict[str, np.ndarray]
) -> None:
    painted = []
    for order in ("yx", "xy"):
        one = pipelines[order](golden["image_u8"], task="point_segmentation", points=POINTS, steps=2, size=(128, 128))
        assert isinstance(one, Prediction)
        painted.append(one.rgb)
    assert (painted[0] - painted[1]).abs().max() > 1e-2


def test_the_imported_model_knows_its_prompts_and_settings(files: Path) -> None:
    model = load_model(files / "yx")
    assert {"", "[[image2depth]]", *(f"[[image2semantic]] {name}" for name in COCO_CATEGORIES)} <= set(
        model.bank.prompts
    )
    settings = model.settings
    assert (settings.steps, settings.guidance_scale, settings.resolution, settings.point_order) == (28, 2.0, 768, "yx")
    encodings = {task["name"]: task["encoding"] for task in settings.tasks}
    assert encodings["pose"] == encodings["depth"] == "released" and encodings["entity_segmentation"] == "random"
    assert not (files / "yx" / "text_encoder").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_released_file_comes_back_bit_by_bit(files: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {part: _cast(content, dtype) for part, content in release().items()}
    torch.save(stored, tmp_path / "stored.pth")
    import_release(files / "sd3", tmp_path / "stored.pth", tmp_path / "model")
    back = export_release(tmp_path / "model", tmp_path / "deep" / "back.pth")
    loaded = torch.load(back, weights_only=True)
    assert set(loaded) == set(stored)  # the released code reads these five parts
    before, after = read_release(tmp_path / "stored.pth"), read_release(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def _cast(content: Any, dtype: torch.dtype) -> Any:
    if isinstance(content, Tensor):
        return content.to(dtype)
    return {name: tensor.to(dtype) for name, tensor in content.items()}


class Attack:
    """Unpickles by running code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("owned"),))  # type: ignore[return-value]


def test_what_does_not_fit_is_refused_by_name(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    less, more, shaped = release(), release(), release()
    del less["transformer"]["proj_out.bias"]
    more["optimizer"] = {"step": torch.ones(1)}
    shaped["seg_embeddings"] = {"weight": torch.zeros(1, 64)}
    wrong = {"less": less, "more": more, "shaped": shaped, "text": {"transformer": "none"}, "list": [1, 2]}
    for name, content in wrong.items():
        torch.save(content, tmp_path / f"{name}.pth")
    torch.save({"transformer": Attack()}, tmp_path / "attack.pth")  # a zip, as the released file
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"transformer": Attack()}))
    (tmp_path / "noise.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "transformer").mkdir(parents=True)
    base = str(files / "sd3")
    for name, told in (
        ("less", "missing transformer.proj_out.bias"),
        ("more", "unexpected optimizer.step"),
        ("shaped", "shape of seg_embeddings.weight (1, 64), expected (1, 128)"),
        ("text", "transformer is a str, not a tensor"),
        ("list", "holds a list"),
        ("attack", "refused"),
        ("old", "refused"),
        ("noise", "refused"),
        ("absent", "no file"),
    ):
        status = main(["import", "--base", base, "--release", f"{name}.pth", "--out", "out"])
        assert status == 2
        assert told in capsys.readouterr().err
    for folder, told in (("empty", "no transformer and no vae"), ("bare", "no vae")):
        assert main(["import", "--base", folder, "--release", str(files / "DICEPTION_v1.pth"), "--out", "out"]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "owned").exists() and not (tmp_path / "out").exists()


def test_a_model_with_other_points_has_no_released_form(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="fourier points only, this model has 'grid'"):
        to_release(load_model("tiny"))
    assert main(["export", "tiny", "--format", "release", "--out", str(tmp_path / "out.pth")]) == 2
    assert "grid" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_known_prompt_reads_no_text_encoder_and_a_new_one_can_be_added(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import shutil

    model = shutil.copytree(files / "yx", tmp_path / "model")
    pipeline = Pipeline.from_pretrained(model)
    pipeline.check("semantic_segmentation", category="zebra")
    with pytest.raises(ValueError, match=r"no embedding of prompt '\[\[image2semantic\]\] unicorn'.*prompts add"):
        pipeline.check("semantic_segmentation", category="unicorn")
    prompt = "[[image2semantic]] unicorn"
    command = ["prompts", "add", prompt, "--model", str(model), "--text-encoders", str(files / "sd3")]
    assert main(command) == 0
    assert prompt in capsys.readouterr().out
    Pipeline.from_pretrained(model).check("semantic_segmentation", category="unicorn")


def test_evaluation_refuses_a_prompt_it_cannot_encode_before_it_measures(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["evaluate", "--model", str(files / "yx"), "--size", "32", "--count", "2", "--steps", "1"]
    assert main([*command, "--tasks", "depth,semantic_segmentation"]) == 2
    told = capsys.readouterr()
    assert "no embedding of prompt '[[image2semantic]]" in told.err and "AbsRel" not in told.out
    assert "evaluate depth" not in told.err


def test_text_encoders_that_are_there_are_read_for_an_unknown_prompt_alone(files: Path, tmp_path: Path) -> None:
    import shutil

    model, image = shutil.copytree(files / "yx", tmp_path / "model"), np.zeros((32, 32, 3), np.uint8)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"):
        shutil.copytree(files / "sd3" / name, model / name)
    pipeline = Pipeline.from_pretrained(model)
    pipeline(image, task="semantic_segmentation", category="unicorn", steps=1, size=(32, 32))
    assert pipeline.model.bank.encoder is None  # released
    for file in model.glob("text_encoder*/*.safetensors"):
        file.write_bytes(b"what reads this fails")
    pipeline = Pipeline.from_pretrained(model)
    pipeline(image, task="semantic_segmentation", category="zebra", steps=1, size=(32, 32))
    with pytest.raises(Exception, match="header|safetensors|HeaderTooLarge|deserializ"):
        pipeline(image, task="semantic_segmentation", category="unicorn", steps=1, size=(32, 32))
