"""The model directory: round trip, strictness, and all or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from golden.weights import build_vae, write_stable_diffusion
from safetensors.torch import load_file, save_file
from small import generator, make_model, pictures, predict

from diception.model.autoencoder import Autoencoder, load_autoencoder
from diception.model.checkpoint import from_stable_diffusion, load_model, save_model
from diception.model.diception import Condition, ModelSettings
from diception.model.lora import add_lora
from diception.model.weights import atomic_directory

TASKS = [{"type": "depth", "name": "depth", "token": "[[image2depth]]", "encoding": "disparity"}]


@torch.no_grad()
@pytest.mark.parametrize(("encoding", "order"), [("grid", "yx"), ("fourier", "xy")])
def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path, encoding: str, order: str) -> None:
    model = make_model(point_encoding=encoding, order=order)
    model.settings = ModelSettings(64, 2.5, TASKS, "CC0", "none", {"steps": 7}, order)
    loaded = load_model(save_model(model, tmp_path / "model"))
    assert torch.equal(predict(loaded), predict(model))
    assert loaded.settings == model.settings and loaded.points.order == order
    assert loaded.bank.prompts == ["", "[[image2depth]]"]
    rgb = pictures(2)
    assert torch.equal(loaded.decode(loaded.encode(rgb)), model.decode(model.encode(rgb)))
    assert not any(p.requires_grad for p in loaded.autoencoder.parameters())


@torch.no_grad()
def test_stored_in_half_it_loads_in_any_type(tmp_path: Path) -> None:
    model = make_model()
    save_model(model, tmp_path / "half", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "half/transformer/diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    loaded, half = load_model(tmp_path / "half"), load_model(tmp_path / "half", dtype=torch.bfloat16)
    assert loaded.dtype == torch.float32 and half.dtype == torch.bfloat16
    expected = predict(model)
    assert (predict(loaded) - expected).norm() < 0.02 * expected.norm()
    assert (predict(half) - expected).norm() < 0.05 * expected.norm()
    assert predict(half).dtype == torch.float32


def test_the_layout_is_the_one_of_diffusers(tmp_path: Path) -> None:
    model = make_model()
    model.autoencoder = Autoencoder(build_vae(0))
    root = save_model(model, tmp_path / "model")
    theirs = SD3Transformer2DModel.from_pretrained(root / "transformer")
    state = model.transformer.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())
    assert json.loads((root / "transformer/config.json").read_text())["_class_name"] == "SD3Transformer2DModel"
    assert json.loads((root / "scheduler/scheduler_config.json").read_text())["shift"] == 3.0
    found = {p.suffix for p in root.rglob("*") if p.is_file()}
    assert found == {".json", ".safetensors"}
    assert load_autoencoder(root).scale == 1.5305


@pytest.mark.parametrize("part", ["transformer", "points", "vae"])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, part: str, fault: str) -> None:
    root = save_model(make_model(), tmp_path / "model")
    file = root / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    if fault == "missing":
        del tensors[name]
    elif fault == "unexpected":
        tensors["extra.weight"] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(3, 1, 4, 1, 5)
    save_file(tensors, file)
    with pytest.raises(ValueError, match=f"{part}: 1 weights.*{fault}.*{'extra' if fault == 'unexpected' else name}"):
        load_model(root)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model at"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no diception\.json"):
        load_model(tmp_path)
    root = save_model(make_model(), tmp_path / "model")
    (root / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="not readable"):
        load_model(root)
    (root / "transformer/diffusion_pytorch_model.safetensors").rename(root / "transformer/weights.bin")
    with pytest.raises(ValueError, match="only safetensors"):
        load_model(root)
    (root / "diception.json").write_text('{"format": 1, "colour": 3}')
    shutil.copytree(
        save_model(make_model(), tmp_path / "other") / "transformer", root / "transformer", dirs_exist_ok=True
    )
    with pytest.raises(ValueError, match="colour"):
        load_model(root)
    adapted = make_model()
    add_lora(adapted, 1)
    with pytest.raises(ValueError, match="merge or remove"):
        save_model(adapted, tmp_path / "adapted")


def test_saving_replaces_a_model_but_nothing_else(tmp_path: Path) -> None:
    save_model(make_model(0), tmp_path / "model")
    save_model(make_model(1), tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(predict(load_model(tmp_path / "model")), predict(make_model(1)))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").touch()
    with pytest.raises(ValueError, match="photos exists"):
        save_model(make_model(), tmp_path / "photos")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "photos"]


def test_an_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/marker").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "old", "marker") as folder:
        (folder / "marker").write_text("new")
        raise RuntimeError("disk")
    assert (tmp_path / "old/marker").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


@torch.no_grad()
def test_stable_diffusion_becomes_a_model_that_carries_its_prompts(tmp_path: Path) -> None:
    base = tmp_path / "sd3"
    write_stable_diffusion(base)
    model = from_stable_diffusion(base, generator())
    model.settings.tasks = TASKS
    save_model(model, tmp_path / "light")
    save_model(model, tmp_path / "full", text_encoders=base)
    light, full = load_model(tmp_path / "light"), load_model(tmp_path / "full")
    points, mask = torch.rand(1, 5, 2, generator=generator()), torch.ones(1, 5, dtype=torch.bool)
    latents = torch.randn(1, 16, 16, 16, generator=generator())
    conditions = [m.condition(["[[image2depth]]"], points, mask) for m in (model, light, full)]
    found = [
        m.velocity(latents, torch.ones(1), latents, c) for m, c in zip((model, light, full), conditions, strict=True)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    with pytest.raises(ValueError, match="prompts add"):
        light.condition(["[[image2new]]"], points, mask)
    new = full.condition(["[[image2new]]"], points, mask)
    assert torch.equal(new.context, model.condition(["[[image2new]]"], points, mask).context)


def test_conditions_join_and_mix() -> None:
    model = make_model()
    given = model.condition(["a", "b"], torch.rand(2, 5, 2, generator=generator()), torch.ones(2, 5, dtype=torch.bool))
    empty = model.uncondition(2)
    assert not empty.point_tokens.any() and torch.equal(empty.context[0], model.bank[[""]][0][0])
    mixed = given.where(torch.tensor([True, False]), empty)
    joined = empty.join(given)
    for name in Condition.__dataclass_fields__:
        one, none = getattr(given, name), getattr(empty, name)
        assert torch.equal(getattr(mixed, name), torch.stack([one[0], none[1]]))
        assert torch.equal(getattr(joined, name), torch.cat([none, one]))


def test_broken_or_wandering_files_are_refused(tmp_path: Path) -> None:
    folder = save_model(make_model(), tmp_path / "model")
    prompts = folder / "prompts.safetensors"
    whole = prompts.read_bytes()
    prompts.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not readable as a prompt bank"):
        load_model(folder)
    prompts.write_bytes(whole)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"proj_out.bias": "../../elsewhere.safetensors"}}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lie beside their index"):
        load_model(folder)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_tokens_of_any_number_of_cells_survive_saving(patch: int, tmp_path: Path) -> None:
    model = make_model(patch=patch)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(predict(loaded), predict(model))
    tokens: list[int] = []
    loaded.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["hidden_states"].shape[1]), with_kwargs=True
    )
    predict(loaded)
    assert tokens == [2 * (8 // patch) ** 2]
