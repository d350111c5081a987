"""Configs: every shipped one loads, mistakes are named with what is near, a saved one reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diception.config import (
    AutoencoderConfig,
    FewShotConfig,
    TrainConfig,
    load_config,
    save_config,
    shipped_configs,
)
from diception.config.reference import COMMANDS, document, keys
from diception.training.build import config_tasks

SCHEMAS: dict[str, type] = {
    name: FewShotConfig for name in shipped_configs() if name.startswith(("few_shot", "presets/"))
}
SCHEMAS["tiny/autoencoder"] = AutoencoderConfig


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_load(name: str) -> None:
    schema = SCHEMAS.get(name, TrainConfig)
    assert isinstance(load_config(name, schema=schema), schema)


WITH_MIXTURES = [name for name in shipped_configs() if SCHEMAS.get(name) is not FewShotConfig]


@pytest.mark.parametrize("name", WITH_MIXTURES)
def test_shipped_mixtures_sum_to_one_and_name_tasks_that_there_are(name: str) -> None:
    config = load_config(name, schema=SCHEMAS.get(name, TrainConfig))
    if isinstance(config, TrainConfig):
        assert config.batch_size % (config.accumulate * config.devices) == 0
    if config.data.sources:
        assert sum(source.weight for source in config.data.sources) == pytest.approx(1, abs=1e-9)
    tasks = config_tasks(config, [])
    for source in config.data.sources:
        assert sum(source.tasks.values()) == pytest.approx(1) and source.tasks.keys() <= tasks.keys()


def test_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("steps: 5\noptim: {lr: 1.0e-3}\ndata: {sources: [{name: a, shards: x.tar, tasks: {depth: 1}}]}\n")
    config = load_config(path, ["optim.lr=2e-4", "model.base=tiny"])
    assert (config.steps, config.optim.lr, config.data.sources[0].tasks) == (5, 2e-4, {"depth": 1.0})


def test_every_key_is_documented_where_people_look() -> None:
    page = Path(__file__).parent.parent / "docs" / "keys.md"
    assert page.read_text() == document(), "python -m diception.config.reference > docs/keys.md"
    for schema in COMMANDS.values():
        told = {key.name: key for key in keys(schema)}
        assert all(key.meaning.endswith((".", ")", '."')) for key in told.values())
        flat = OmegaConf.to_container(OmegaConf.structured(schema))
        assert isinstance(flat, dict) and flat.keys() == {name.split(".")[0].split("[")[0] for name in told}
    assert told["data.sources[].weight"].default == "1.0" and told["data"].default == ""


def test_a_saved_config_reads_back(tmp_path: Path) -> None:
    config = load_config("tiny/multitask")
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optm.lr=1", "unknown key optm; did you mean optim"),
        ("optim.lrr=1", "unknown key optim.lrr; did you mean optim.lr"),
        ("steps=many", "steps"),
        ("data.size=104", "size is 104; it must be a multiple of 16"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("tiny/multitask", [override])


def test_unknown_keys_in_lists_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {sources: [{name: a, shard: x.tar}]}\n")
    with pytest.raises(ValueError, match=r"unknown key data.sources.0.shard; did you mean data.sources.0.shards"):
        load_config(path)


def test_a_missing_config_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tiny/multitask"):
        load_config(tmp_path / "none.yaml")


def test_broken_yaml_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("steps: [1\n")
    with pytest.raises(ValueError, match="run.yaml: not readable as yaml"):
        load_config(path)


def test_a_config_extends_another_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("steps: 5\nseed: 3\noptim: {lr: 1.0e-3, warmup: 7}\nloggers: [csv, wandb]\n")
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {tmp_path / 'base.yaml'}\nseed: 4\noptim: {{lr: 2.0e-3}}\nloggers: [csv]\n")
    config = load_config(child, ["steps=6"])
    assert (config.steps, config.seed, config.optim.lr, config.optim.warmup) == (6, 4, 2e-3, 7)
    assert config.loggers == ["csv"], "a list replaces the other's"
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    assert load_config("sd35_medium").data == load_config("paper").data
    (tmp_path / "base.yaml").write_text(f"extends: {child}\n")
    with pytest.raises(ValueError, match="extends itself"):
        load_config(child)
    child.write_text("extends: nowhere\n")
    with pytest.raises(ValueError, match="no config 'nowhere'"):
        load_config(child)
