"""How configs are read from yaml files and the command line, and written."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diception.config.few_shot import FewShotConfig
from diception.config.training import AutoencoderConfig, TrainConfig

EXTENDS = "extends"
"""Key of a yaml file that names another, whose keys hold where the file says nothing; its lists replace the other's."""
PACKAGE = Path(__file__).parent.parent
CONFIG_FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")

Config = TypeVar("Config", TrainConfig, AutoencoderConfig, FewShotConfig)


def load_config(name: str | Path, overrides: list[str] | None = None, schema: type[Config] = TrainConfig) -> Config:
    """Reads a config by path or by the name of a shipped one, and those it extends, then applies overrides.

    Args:
        name: path of a yaml file, or a shipped config's name such as `tiny/multitask`.
        overrides: `key=value`, with dots for nested keys: `optim.lr=1e-4`.
        schema: the dataclass that says which keys and types are allowed.

    Raises:
        ValueError: no such config, one that extends itself, an unknown key (names the nearest), a value of the wrong
            type.
    """
    path = find_config(name)
    base = OmegaConf.structured(schema)
    try:
        given = [*_chain(path, ()), OmegaConf.from_dotlist(overrides or [])]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: not readable as yaml: {' '.join(str(error).split())}") from error
    for config in given:
        if not isinstance(config, DictConfig):
            raise ValueError(f"{path}: holds a {type(config).__name__}, not keys and values")
        _check_keys(config, base, str(path))
    try:
        return OmegaConf.to_object(OmegaConf.merge(base, *given))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]} (key {error.full_key})") from error
    except TypeError as error:  # a list where keys are asked for, or the other way round
        raise ValueError(f"{path}: {error}; lists are given as a whole, in the file") from error


def _chain(path: Path, above: tuple[Path, ...]) -> list[Any]:
    """A config behind those that it extends, the first of which stands alone."""
    if path in above:
        raise ValueError(f"{path} extends itself, by way of {', '.join(map(str, above))}")
    config = OmegaConf.load(path)
    parent = config.pop(EXTENDS, None) if isinstance(config, DictConfig) else None
    return [*(_chain(find_config(parent), (*above, path)) if parent else []), config]


def save_config(config: Any, path: str | Path) -> None:
    """Writes a config dataclass as yaml, readable by `load_config`; whole at once, since other ranks may be reading."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    OmegaConf.save(OmegaConf.structured(config), temporary)
    temporary.replace(path)


def find_config(name: str | Path) -> Path:
    """Path of a config given by path or by the name of a shipped one.

    Raises:
        ValueError: neither exists; lists the shipped ones.
    """
    candidates = [Path(name), *(folder / f"{name}.yaml" for folder in CONFIG_FOLDERS)]
    for path in candidates:
        if path.is_file():
            return path
    raise ValueError(f"no config {str(name)!r}: neither a file nor one of the shipped {', '.join(shipped_configs())}")


def shipped_configs() -> list[str]:
    """Names of the configs that travel with the package."""
    for folder in CONFIG_FOLDERS:
        if folder.is_dir():
            return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    return []


def _check_keys(given: Any, known: Any, where: str, prefix: str = "") -> None:
    """Refuses keys that the schema lacks, naming the nearest one that it has."""
    if isinstance(given, ListConfig) and isinstance(known, ListConfig):
        schema = OmegaConf.structured(_element_type(known)) if _element_type(known) else None
        for index, item in enumerate(given):
            _check_keys(item, schema, where, f"{prefix}{index}.")
        return
    if not isinstance(given, DictConfig) or not isinstance(known, DictConfig):
        return
    if not dataclasses.is_dataclass(OmegaConf.get_type(known)):
        return
    names = [f.name for f in dataclasses.fields(OmegaConf.get_type(known))]  # type: ignore[arg-type]
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise ValueError(f"{where}: unknown key {prefix}{key}; {hint}")
        _check_keys(given._get_node(key), known._get_node(key), where, f"{prefix}{key}.")


def _element_type(config: ListConfig) -> type | None:
    element = config._metadata.element_type
    return element if isinstance(element, type) and dataclasses.is_dataclass(element) else None
