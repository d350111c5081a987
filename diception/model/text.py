"""Text: what encodes prompts, and the small model's encoder, which needs no weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

TOKEN = re.compile(r"\[\[|\]\]|[^\W\d_]+|\d+|[^\w\s]|_")


class TextEncoder(Protocol):
    """Turns prompts into context and pooled embeddings."""

    @property
    def max_length(self) -> int:
        """L, tokens of every context."""
        ...

    def describe(self) -> dict[str, Any]:
        """What identifies the encoder, as JSON: `type`, `hash`, and what a weightless one is rebuilt from."""
        ...

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context (B, L, text width) and pooled (B, pooled width)."""
        ...


class WordHashEncoder:
    """Every word is a fixed Gaussian vector drawn from the hash of the word; nothing is learned, nothing is loaded.

    `[[image2depth]]` is the words `[[`, `image`, `2`, `depth`, `]]`, so a new task's token shares most of them.
    """

    def __init__(self, width: int = 64, max_length: int = 16):
        self.width = width
        self.max_length = max_length

    def describe(self) -> dict[str, Any]:
        """See `TextEncoder`."""
        settings = {"type": "word_hash", "width": self.width, "max_length": self.max_length}
        return settings | {"hash": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]}

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context (B, L, width), zeros behind the last word, and pooled (B, width), the words' sum at unit variance."""
        context = torch.zeros(len(prompts), self.max_length, self.width)
        pooled = torch.zeros(len(prompts), self.width)
        for row, prompt in enumerate(prompts):
            words = TOKEN.findall(prompt.lower())[: self.max_length]
            if words:
                context[row, : len(words)] = torch.stack([self._vector(word) for word in words])
                pooled[row] = context[row].sum(0) / len(words) ** 0.5
        return context, pooled

    def _vector(self, word: str) -> Tensor:
        seed = np.frombuffer(hashlib.sha256(word.encode()).digest(), dtype="<u4")
        # RandomState's stream is frozen by numpy's policy, a Generator's is not.
        return torch.from_numpy(np.random.RandomState(seed).standard_normal(self.width)).float()
