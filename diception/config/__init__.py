"""Every option of a run, as dataclasses, and how they are read from a yaml file and the command line."""

from diception.config.data import AugmentConfig, DataConfig, SourceConfig
from diception.config.few_shot import FewShotConfig
from diception.config.loading import find_config, load_config, save_config, shipped_configs
from diception.config.training import (
    AdapterConfig,
    AutoencoderConfig,
    FlowConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
    TaskConfig,
    TrainConfig,
)

__all__ = [
    "AdapterConfig",
    "AugmentConfig",
    "AutoencoderConfig",
    "DataConfig",
    "FewShotConfig",
    "FlowConfig",
    "ModelConfig",
    "OptimConfig",
    "SamplingConfig",
    "SourceConfig",
    "TaskConfig",
    "TrainConfig",
    "find_config",
    "load_config",
    "save_config",
    "shipped_configs",
]
