"""Options of memory and speed: the same answers, or nearly, from models that are held otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small import generator, make_model, pictures
from torch import Tensor, nn

from diception.cli import main
from diception.inference import Pipeline, Prediction
from diception.model.adapters import save_adapter
from diception.model.autoencoder import Autoencoder, PatchAutoencoder
from diception.model.checkpoint import load_model, save_model
from diception.model.diception import Diception
from diception.model.lora import adapter_weights, add_lora, merge_adapter
from diception.model.memory import is_quantized, prepare
from diception.tasks import get_task, task_for_kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = make_model()
    model.settings.tasks = [get_task("depth").as_dict()]
    return save_model(model, tmp_path / "model")


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return (pictures(1)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def paint(pipeline: Pipeline, image: NDArray[np.uint8]) -> Tensor:
    prediction = pipeline(image, task="depth", steps=2, guidance_scale=1.5)
    assert isinstance(prediction, Prediction)
    return prediction.rgb


def weight_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def test_offloaded_weights_give_the_same_bytes(folder: Path, image: NDArray[np.uint8]) -> None:
    plain, offloaded = Pipeline.from_pretrained(folder), Pipeline.from_pretrained(folder, offload=True)
    assert torch.equal(paint(offloaded, image), paint(plain, image))


@pytest.mark.parametrize(("kind", "bound", "share"), [("int8", 0.02, 0.5), ("nf4", 0.2, 0.4)])
def test_quantised_blocks_are_smaller_and_answer_nearly_the_same(
    folder: Path, image: NDArray[np.uint8], kind: str, bound: float, share: float
) -> None:
    pytest.importorskip("bitsandbytes")
    plain, quantised = Pipeline.from_pretrained(folder), Pipeline.from_pretrained(folder, quantize=kind)
    difference = (paint(quantised, image) - paint(plain, image)).abs()
    assert 0 < difference.mean() < bound
    blocks = [pipeline.model.transformer.transformer_blocks for pipeline in (quantised, plain)]
    assert weight_bytes(blocks[0]) < share * weight_bytes(blocks[1])
    assert is_quantized(quantised.model) and not is_quantized(plain.model)


def quantised_with_adapter(folder: Path, tmp_path: Path) -> tuple[Diception, Path]:
    model = make_model()
    add_lora(model, rank=2)
    for weight in adapter_weights(model).values():
        nn.init.normal_(weight, std=0.3, generator=generator(3))
    file = save_adapter(model, tmp_path / "adapter", [get_task("depth").as_dict()])
    return Pipeline.from_pretrained(folder, adapter=file, quantize="int8").model, file


def test_an_adapter_works_on_a_quantised_base(folder: Path, image: NDArray[np.uint8], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    quantised, file = quantised_with_adapter(folder, tmp_path)
    adapted = paint(Pipeline.from_pretrained(folder, adapter=file), image)
    base = paint(Pipeline.from_pretrained(folder), image)
    difference = (paint(Pipeline(quantised), image) - adapted).abs().mean()
    assert difference < 0.1 * (adapted - base).abs().mean()
    weights = adapter_weights(quantised, "depth").values()
    assert len(weights) and all(weight.dtype == torch.float32 for weight in weights)


def test_quantised_weights_are_neither_merged_nor_saved(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    quantised, _ = quantised_with_adapter(folder, tmp_path)
    with pytest.raises(ValueError, match="quantised"):
        merge_adapter(quantised)
    with pytest.raises(ValueError, match="quantised"):
        save_model(Pipeline.from_pretrained(folder, quantize="nf4").model, tmp_path / "stored")
    assert not (tmp_path / "stored").exists()


@pytest.mark.slow
def test_compiled_blocks_answer_the_same(folder: Path, image: NDArray[np.uint8]) -> None:
    compiled = Pipeline.from_pretrained(folder, compile_blocks=True)
    torch.testing.assert_close(paint(compiled, image), paint(Pipeline.from_pretrained(folder), image))
    names = [name for name, _ in compiled.model.named_parameters()]
    assert names == [name for name, _ in make_model().named_parameters()]  # so that checkpoints stay the same


def test_another_decoder_paints_from_the_same_latents(folder: Path, image: NDArray[np.uint8], tmp_path: Path) -> None:
    other = PatchAutoencoder(width=8, blocks=1)
    other.fit_pca(pictures(32, seed=4), generator(4))
    other.save_pretrained(tmp_path / "other")
    replaced, plain = Pipeline.from_pretrained(folder, decoder=tmp_path / "other"), Pipeline.from_pretrained(folder)
    latents = torch.randn(1, 16, 8, 8, generator=generator())
    assert torch.equal(replaced.model.decode(latents), Autoencoder(other).decode(latents))
    assert torch.equal(replaced.model.encode(pictures(1)), plain.model.encode(pictures(1)))
    assert not torch.equal(paint(replaced, image), paint(plain, image))


def test_a_decoder_of_other_latents_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    PatchAutoencoder(latent_channels=4, width=8, blocks=1).save_pretrained(tmp_path / "four")
    options = ["--autoencoder", str(tmp_path / "four"), "--task", "depth", "--image", __file__]
    with pytest.raises(ValueError, match="decoder has 4 channels .* the model has 16 channels"):
        Pipeline.from_pretrained(folder, decoder=tmp_path / "four")
    assert main(["predict", "--model", str(folder), "--out", str(tmp_path / "out"), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="quantize is 'fp3'; allowed: int8, nf4"):
        prepare(make_model(), "cpu", quantize="fp3")
    with pytest.raises(ValueError, match="offload goes with neither"):
        prepare(make_model(), "cpu", quantize="nf4", offload=True)
    with pytest.raises(ValueError, match="offload goes with neither"):
        prepare(make_model(), "cpu", offload=True, compile_blocks=True)


def test_what_is_no_device_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", "--model", "tiny", "--device", "toaster"]) == 2
    assert "--device is 'toaster'; allowed: cpu, cuda" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", "--model", "tiny", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_an_adapter_may_come_after_the_quantisation(folder: Path, image: NDArray[np.uint8], tmp_path: Path) -> None:
    trained = load_model(folder)
    add_lora(trained, 2)
    path = save_adapter(trained, tmp_path / "adapter", [task_for_kind("mask", "moss").as_dict()])
    pipeline = Pipeline.from_pretrained(folder, quantize="int8")
    pipeline.load_adapter(path)
    assert "moss" in pipeline.tasks
