"""Several adapters on one model: switching, stacking, taking off, and other libraries that load their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small import generator, make_model, predict

from diception.cli import main
from diception.datasets.synthetic import render_scene
from diception.export import export_directory
from diception.inference import Pipeline, Prediction
from diception.model.adapters import load_adapter, read_adapter, save_adapter, write_peft
from diception.model.checkpoint import save_model
from diception.model.diception import Diception
from diception.model.lora import (
    active_adapters,
    adapter_names,
    adapter_weights,
    add_lora,
    merge_adapter,
    remove_adapter,
    use_adapters,
)
from diception.tasks import get_task, task_for_kind, task_from_dict

IMAGE = render_scene(0, 3, 64).image
TASKS = {name: task_for_kind("mask", name).as_dict() for name in ("crack", "rust")}
SAMPLING = {"crack": {"steps": 2, "guidance_scale": 1.0}, "rust": {"steps": 1, "start": "zero", "window": 32}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model()
    model.settings.tasks = [get_task("depth").as_dict()]
    return save_model(model, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters, of other ranks and maps, far from zero."""
    folder = tmp_path_factory.mktemp("adapters")
    return {"crack": made(folder, "crack", 2, 3.0, "image"), "rust": made(folder, "rust", 3, 3.0, "all")}


def made(folder: Path, name: str, rank: int, alpha: float, targets: str) -> Path:
    model = make_model()
    add_lora(model, rank, alpha, targets)
    for index, weight in enumerate(adapter_weights(model).values()):
        torch.nn.init.normal_(weight, std=0.1, generator=generator(index + rank))
    task = TASKS[name]
    return save_adapter(model, folder / name, [task], training={"steps": 5}, sampling=SAMPLING[name])


def with_both(files: dict[str, Path]) -> Diception:
    model = make_model()
    for name, file in files.items():
        load_adapter(model, file, name)
    return model


@torch.no_grad()
def test_they_are_switched_stacked_and_switched_off(files: dict[str, Path]) -> None:
    plain, both = make_model(), with_both(files)
    alone = {}
    for name, file in files.items():
        model = make_model()
        load_adapter(model, file)
        alone[name] = predict(model)
        use_adapters(both, {name: 1.0})
        assert torch.equal(predict(both), alone[name])
    use_adapters(both, {})
    assert torch.equal(predict(both), predict(plain))
    use_adapters(both, {"crack": 0.0, "rust": 1.0})
    torch.testing.assert_close(predict(both), alone["rust"])
    use_adapters(both, {"crack": 0.5, "rust": -2.0})
    stacked = predict(both)
    merge_adapter(both)
    torch.testing.assert_close(predict(both), stacked, atol=1e-5, rtol=1e-4)
    for path, weight in plain.transformer.state_dict().items():
        change = torch.zeros_like(weight)
        for name, strength in {"crack": 0.5, "rust": -2.0}.items():
            tensors, info = read_adapter(files[name])
            if f"{path.removesuffix('.weight')}.lora_A.weight" in tensors:
                down, up = (tensors[f"{path.removesuffix('.weight')}.lora_{part}.weight"] for part in "AB")
                change += strength * info.alpha / info.rank * up @ down
        torch.testing.assert_close(both.transformer.state_dict()[path], weight + change)


@torch.no_grad()
def test_one_is_taken_off_and_the_other_stays(files: dict[str, Path]) -> None:
    model, alone = with_both(files), make_model()
    load_adapter(alone, files["crack"])
    remove_adapter(model, "rust")
    assert adapter_names(model) == ["crack"]
    assert torch.equal(predict(model), predict(make_model()))  # only the newest counted
    use_adapters(model, {"crack": 1.0})
    assert torch.equal(predict(model), predict(alone))
    remove_adapter(model, "crack")
    assert adapter_names(model) == [] and torch.equal(predict(model), predict(make_model()))


@torch.no_grad()
def test_what_was_off_stays_off_beside_one_that_comes_and_goes(files: dict[str, Path], tmp_path: Path) -> None:
    model = make_model()
    load_adapter(model, files["crack"], "crack")
    for weights in ({}, {"crack": 0.5}):
        use_adapters(model, weights)
        expected, trained = predict(model), set(model.trainable_parameters())
        load_adapter(model, files["rust"], "rust")
        use_adapters(model, weights | {"rust": 1.0})
        remove_adapter(model, "rust")
        assert active_adapters(model) == weights and set(model.trainable_parameters()) <= trained
        assert torch.equal(predict(model), expected)
        with pytest.raises(ValueError, match="does not fit"):
            load_adapter(model, without_a_tensor(files["rust"], tmp_path), "rust")
        assert torch.equal(predict(model), expected)


def without_a_tensor(file: Path, folder: Path) -> Path:
    """A copy of an adapter that lacks one of its matrices."""
    with safe_open(file, framework="pt") as stored:
        metadata, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    tensors.pop(next(name for name in tensors if ".lora_B." in name))
    save_file(tensors, folder / "broken.safetensors", metadata)
    return folder / "broken.safetensors"


def test_what_is_not_there_is_refused(files: dict[str, Path]) -> None:
    model = with_both(files)
    with pytest.raises(ValueError, match="no adapter 'moss'; it has crack, rust"):
        use_adapters(model, {"moss": 1.0})
    with pytest.raises(ValueError, match="no adapter 'moss'"):
        remove_adapter(model, "moss")
    with pytest.raises(ValueError, match="weight of adapter 'rust' is nan"):
        use_adapters(model, {"rust": float("nan")})
    with pytest.raises(ValueError, match="already has an adapter 'rust'"):
        load_adapter(model, files["rust"], "rust")
    with pytest.raises(ValueError, match="no name of an adapter"):
        load_adapter(model, files["rust"], "a.b")
    assert adapter_names(model) == ["crack", "rust"]


def test_a_pipeline_answers_every_task_with_the_adapter_that_learned_it(base: Path, files: dict[str, Path]) -> None:
    pipeline, plain = Pipeline.from_pretrained(base, adapter=list(files.values())), Pipeline.from_pretrained(base)
    single = {name: Pipeline.from_pretrained(base, adapter=file) for name, file in files.items()}
    requests = ["crack", "depth", "rust", "crack", "depth"]

    def rgb(asked: Pipeline, task: str) -> torch.Tensor:
        answer = asked(IMAGE, task=task)
        assert isinstance(answer, Prediction)
        return answer.rgb

    for task in requests:
        assert torch.equal(rgb(pipeline, task), rgb(single.get(task, plain), task))
    assert not torch.equal(rgb(pipeline, "crack"), rgb(pipeline, "depth"))
    pipeline.stack({"crack": 1.0})
    stacked = rgb(pipeline, "depth")
    assert not torch.equal(stacked, rgb(plain, "depth"))
    pipeline.stack({})
    assert torch.equal(rgb(pipeline, "depth"), rgb(plain, "depth"))
    pipeline.stack(None)
    assert torch.equal(rgb(pipeline, "crack"), rgb(single["crack"], "crack"))


def test_an_adapter_brings_its_sampling(base: Path, files: dict[str, Path]) -> None:
    adapters = Pipeline.from_pretrained(base, adapter=list(files.values())).adapters
    crack, rust, depth = (TASKS["crack"], TASKS["rust"], get_task("depth").as_dict())
    found = [adapters.sampling(task_from_dict(task)) for task in (crack, rust, depth)]
    assert [(s.steps, s.guidance_scale, s.window, s.start) for s in found] == [
        (2, 1.0, 0, "noise"),
        (1, 2.0, 32, "zero"),
        (28, 2.0, 0, "noise"),
    ]
    given = adapters.sampling(task_from_dict(crack), steps=7, guidance_scale=3.0, tile=False)
    assert (given.steps, given.guidance_scale, given.window, given.start) == (7, 3.0, 0, "noise")
    with pytest.raises(ValueError, match="start=zero is an answer in 1 step, not in 7"):
        adapters.sampling(task_from_dict(rust), steps=7)


def test_several_are_merged_with_weights(base: Path, files: dict[str, Path], tmp_path: Path) -> None:
    weights = dict(zip(files.values(), (0.5, -1.0), strict=True))
    merged = Pipeline.from_pretrained(export_directory(base, tmp_path / "merged", weights))
    pipeline = Pipeline.from_pretrained(base, adapter=list(files.values()))
    pipeline.stack({"crack": 0.5, "rust": -1.0})
    answers = [p(IMAGE, task="crack", steps=2, guidance_scale=1.0) for p in (merged, pipeline)]
    assert all(isinstance(answer, Prediction) for answer in answers)
    torch.testing.assert_close(answers[0].rgb, answers[1].rgb, atol=1e-5, rtol=1e-5)  # type: ignore[union-attr]
    assert set(merged.tasks) == {"depth", "crack", "rust"}
    for name in ("depth", "crack", "rust"):
        own = merged.adapters.sampling(merged.tasks[name])
        assert own == pipeline.adapters.sampling(pipeline.tasks[name]), "sampled as before it was merged"


def plain_transformer() -> SD3Transformer2DModel:
    """The transformer as diffusers knows it, which has no image tokens."""
    own = make_model().transformer
    config = {key: value for key, value in own.config.items() if not key.startswith("_")}
    transformer = SD3Transformer2DModel(**config)
    transformer.load_state_dict(own.state_dict())
    return transformer.eval()


@torch.no_grad()
def velocity(transformer: torch.nn.Module) -> torch.Tensor:
    config = make_model().transformer.config
    drawn = generator(3)
    side = config["sample_size"]
    return transformer(
        hidden_states=torch.randn(2, config["in_channels"], side, side, generator=drawn),
        encoder_hidden_states=torch.randn(2, 7, config["joint_attention_dim"], generator=drawn),
        pooled_projections=torch.randn(2, config["pooled_projection_dim"], generator=drawn),
        timestep=torch.tensor([300.0, 900.0]),
    ).sample


@pytest.mark.parametrize("name", ["crack", "rust"])
def test_diffusers_and_peft_load_it(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Their own loaders change diffusers' own transformer as merging by hand does."""
    write_peft(files[name], tmp_path / "peft")
    tensors, info = read_adapter(files[name])
    by_hand, plain = plain_transformer(), velocity(plain_transformer())
    for path, weight in by_hand.state_dict().items():
        stem = path.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in tensors:
            down, up = (tensors[f"{stem}.lora_{part}.weight"] for part in "AB")
            weight += info.alpha / info.rank * up @ down
    wanted = velocity(by_hand)
    assert (wanted - plain).abs().max() > 1e-3
    pipeline = StableDiffusion3Pipeline(
        transformer=plain_transformer(),
        **dict.fromkeys(("scheduler", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")),
        **dict.fromkeys(("tokenizer", "tokenizer_2", "tokenizer_3")),
    )
    pipeline.load_lora_weights(tmp_path / "peft")
    torch.testing.assert_close(velocity(pipeline.transformer), wanted, atol=1e-5, rtol=1e-4)
    wrapped = PeftModel.from_pretrained(plain_transformer(), tmp_path / "peft")  # type: ignore[arg-type]
    torch.testing.assert_close(velocity(wrapped), wanted, atol=1e-5, rtol=1e-4)


def test_the_command_lists_inspects_and_converts(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files["crack"].parent.parent
    assert main(["adapters", "list", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "crack" in out and "rust" in out and read_adapter(files["rust"])[1].base_hash[:12] in out
    assert main(["adapters", "inspect", str(files["rust"])]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rank"] == 3 and said["sampling"] == SAMPLING["rust"] and said["tasks"] == [TASKS["rust"]]
    assert main(["adapters", "peft", str(files["rust"]), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert main(["adapters", "list", str(tmp_path / "nowhere")]) == 2
    assert main(["adapters", "inspect", str(tmp_path / "nowhere")]) == 2


def test_predict_takes_several_and_stacks_them(
    base: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(IMAGE).save(photo)
    asked = ["predict", "--model", str(base), "--image", str(photo), "--adapter", *map(str, files.values())]

    def painted(folder: str, task: str, *options: str) -> bytes:
        assert main([*asked, "--task", task, "--out", str(tmp_path / folder), *options]) == 0
        return (tmp_path / folder / f"photo.{task}.rgb.png").read_bytes()

    own, plain = painted("own", "crack"), painted("plain", "depth", "--steps", "2")
    assert own == painted("one", "crack", "--stack", "1", "0")
    assert own != painted("both", "crack", "--stack", "1", "1")
    assert plain == painted("none", "depth", "--steps", "2", "--stack", "0", "0")
    capsys.readouterr()
    assert main([*asked, "--task", "crack", "--out", str(tmp_path / "out"), "--stack", "1"]) == 2
    assert "--stack has 1 weights, but --adapter names 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_points_were_trained_with_it_fits_no_others(tmp_path: Path) -> None:
    task = TASKS["crack"]
    model, other = make_model(), make_model()
    add_lora(model, 2)
    model.points.requires_grad_(True)
    torch.nn.init.normal_(next(iter(other.points.parameters())))
    path = save_adapter(model, tmp_path / "points", [task])
    load_adapter(make_model().to(torch.bfloat16), path)
    with pytest.raises(ValueError, match="goes with the `base` folder beside it"):
        load_adapter(other, path)
    model.points.requires_grad_(False)
    load_adapter(other, save_adapter(model, tmp_path / "any", [task]))


def test_other_libraries_files_overwrite_nothing(base: Path, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds other files"):
        write_peft(files["crack"], base)
    assert write_peft(files["crack"], tmp_path / "peft") == write_peft(files["crack"], tmp_path / "peft")


def test_an_adapter_may_have_any_name_that_a_task_may_have(files: dict[str, Path]) -> None:
    """Names of methods that the modules have which hold adapters, too."""
    expected = with_both(files)
    use_adapters(expected, {"crack": 0.5})
    model, names = make_model(), ("train", "keys", "pop", "type")
    for name in names:
        load_adapter(model, files["crack"], name)
    assert adapter_names(model) == list(names) and active_adapters(model) == {"type": 1.0}
    use_adapters(model, {"train": 0.5})
    assert active_adapters(model) == {"train": 0.5} and torch.equal(predict(model), predict(expected))
    for name in names:
        remove_adapter(model, name)
    assert torch.equal(predict(model), predict(make_model()))
