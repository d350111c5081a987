"""DICEPTION: Stable Diffusion 3 as one perception model for many tasks.

Shapes: B batch, C channel, H W pixels, h w latent cells (H / 8, W / 8), N image tokens, L text tokens, P points,
K keypoints, D width of the transformer. RGB is in [0, 1] outside the autoencoder. Points are (x, y) in [0, 1].
Depth is in metres, invalid where 0, inf or nan. Normals are in camera axes: x right, y up, z towards the viewer.
Sigma 1 is noise, sigma 0 is data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diception.config import load_config as load_config
    from diception.inference import Pipeline as Pipeline
    from diception.tasks import get_task as get_task

__version__ = "0.1.0"
__all__ = ["Pipeline", "get_task", "load_config"]

_HOMES = {"Pipeline": "diception.inference", "get_task": "diception.tasks", "load_config": "diception.config"}


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that `diception --help` need not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'diception' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
