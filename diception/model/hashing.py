"""A short hash of weights, to tell whether two files were made for the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

SAMPLES = 64


def weights_hash(weights: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """Hash of names, shapes and some values of every tensor, in the order of the names.

    Values are rounded to bfloat16 first, so that a model has the same hash in float32 and in bfloat16.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(dict(weights).items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLES)].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().astype("<i2").tobytes())
    return digest.hexdigest()[:16]
