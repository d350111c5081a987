"""The prompt bank: encoded prompts by their text, so that training and inference load no text encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diception.model.text import TextEncoder, WordHashEncoder
from diception.model.weights import write_tensors

FORMAT = "diception-prompts-1"
KEY = "diception_prompts"
"""The one entry of a bank's metadata, JSON: several entries would be written in random order."""
MOVED = 128
"""So many prompts are kept on a device: COCO's categories and the tasks. Stable Diffusion 3's take 2.7 MB each."""
AT_ONCE = 16
"""Prompts that the text encoders read at once."""


class PromptBank:
    """Encoded prompts by their text, so that training and inference load no text encoder.

    An unknown prompt is encoded where there is an encoder, and kept.
    """

    def __init__(
        self,
        encoder: TextEncoder | None = None,
        load_encoder: Callable[[], TextEncoder] | None = None,
        description: dict[str, Any] | None = None,
    ):
        """Starts empty.

        Args:
            encoder: encodes unknown prompts.
            load_encoder: gives the encoder on first need, if it is expensive to load.
            description: of the encoder that made the stored embeddings, where `encoder` is not given.
        """
        self.encoder = encoder
        self.description = encoder.describe() if encoder is not None else dict(description or {})
        self._load_encoder = load_encoder
        self._entries: dict[str, tuple[Tensor, Tensor]] = {}
        self._moved: dict[tuple[str, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    @property
    def prompts(self) -> list[str]:
        """The prompts that are stored, sorted."""
        return sorted(self._entries)

    def __getitem__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context (B, L, text width) and pooled (B, pooled width), as stored."""
        assert not isinstance(prompts, str), "a list of prompts, not one string"
        self.add([prompt for prompt in dict.fromkeys(prompts) if prompt not in self._entries])
        return _stack([self._entries[prompt] for prompt in prompts])

    def lookup(self, prompts: Sequence[str], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The same on a device, where the prompts that were asked for last are kept."""
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        missing = [prompt for prompt in rows if (prompt, device, dtype) not in self._moved]
        if missing:
            context, pooled = (tensor.to(device, dtype) for tensor in self[missing])
            self._moved |= {(p, device, dtype): (context[i], pooled[i]) for i, p in enumerate(missing)}
        for prompt in rows:
            self._moved[prompt, device, dtype] = self._moved.pop((prompt, device, dtype))  # now the newest
        context, pooled = _stack([self._moved[prompt, device, dtype] for prompt in rows])
        for key in list(self._moved)[: -max(MOVED, len(rows))]:
            del self._moved[key]
        if len(rows) == 1:
            return context.expand(len(prompts), -1, -1), pooled.expand(len(prompts), -1)
        own = torch.tensor([rows[prompt] for prompt in prompts], device=device)
        return context[own], pooled[own]

    def add(self, prompts: Iterable[str]) -> None:
        """Encodes and stores prompts.

        Raises:
            ValueError: there is no encoder; names the prompts that are known.
        """
        prompts = list(prompts)
        if not prompts:
            return
        self.check(prompts)
        if self.encoder is None and self._load_encoder is not None:
            self.encoder = self._load_encoder()
            self._check(self.encoder.describe())
        assert self.encoder is not None
        for start in range(0, len(prompts), AT_ONCE):
            part = prompts[start : start + AT_ONCE]
            self.put(part, *self.encoder(part))

    def check(self, prompts: Iterable[str]) -> None:
        """Refuses prompts that are neither stored nor can be encoded; encodes nothing.

        Raises:
            ValueError: names the prompts that are known.
        """
        unknown = [prompt for prompt in prompts if prompt not in self._entries]
        if unknown and self.encoder is None and self._load_encoder is None:
            known = ", ".join(repr(prompt) for prompt in self.prompts)
            raise ValueError(
                f"the model holds no embedding of prompt {unknown[0]!r} and no text encoder; it knows {known}. "
                "Add it with `diception prompts add`, which needs the text encoders of Stable Diffusion 3"
            )

    @property
    def loads_encoder(self) -> bool:
        """Whether an encoder is loaded when a prompt first needs it: an expensive one, with weights."""
        return self._load_encoder is not None

    def release_encoder(self) -> None:
        """Forgets an encoder that can be loaded again, and with it its memory."""
        if self._load_encoder is not None:
            self.encoder = None

    def put(self, prompts: Sequence[str], context: Tensor, pooled: Tensor) -> None:
        """Stores embeddings context (N, L, text width) and pooled (N, pooled width) of N prompts."""
        for prompt, *entry in zip(prompts, context.detach().cpu(), pooled.detach().cpu(), strict=True):
            stored = next(iter(self._entries.values()), entry)
            if [e.shape for e in entry] != [s.shape for s in stored]:
                shapes = [tuple(e.shape) for e in entry], [tuple(s.shape) for s in stored]
                raise ValueError(f"embeddings of prompt {prompt!r} have shapes {shapes[0]}; the bank's are {shapes[1]}")
            self._entries[prompt] = (entry[0], entry[1])
            self._moved = {key: value for key, value in self._moved.items() if key[0] != prompt}

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes `context` (N, L, text width) and `pooled` (N, pooled width); prompts and encoder in the metadata."""
        if not self._entries:
            raise ValueError("the prompt bank is empty; a model needs at least the prompts of its tasks and ''")
        context, pooled = (tensor.to(dtype or tensor.dtype) for tensor in self[self.prompts])
        metadata = {
            "format": FORMAT,
            "prompts": self.prompts,
            "encoder": self.description,
            "encoder_hash": str(self.description.get("hash", "")),
            "dtype": str(context.dtype).removeprefix("torch."),
            "max_length": context.shape[1],
        }
        described = {KEY: json.dumps(metadata, sort_keys=True)}
        write_tensors({"context": context, "pooled": pooled}, Path(path), described)

    @classmethod
    def load(cls, path: str | Path, load_encoder: Callable[[], TextEncoder] | None = None) -> PromptBank:
        """Reads a bank; an encoder without weights comes with it.

        Raises:
            ValueError: no such file, or not a prompt bank.
        """
        if not Path(path).is_file():
            raise ValueError(f"no prompt bank at {path}")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = _described(file.metadata() or {})
                if metadata.get("format") != FORMAT or set(file.keys()) != {"context", "pooled"}:
                    raise ValueError(f"{path} is not a prompt bank")
                context, pooled = file.get_tensor("context"), file.get_tensor("pooled")
            description, prompts = metadata["encoder"], metadata["prompts"]
        except (SafetensorError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not readable as a prompt bank: {error}") from error
        bank = cls(None, load_encoder, description)
        if description.get("type") == "word_hash":
            bank.encoder = WordHashEncoder(description["width"], description["max_length"])
            bank._check(bank.encoder.describe())
        bank.put(prompts, context, pooled)
        return bank

    @staticmethod
    def length(path: str | Path) -> int:
        """L, tokens of every context in a file."""
        with safe_open(str(path), framework="pt") as file:
            return file.get_slice("context").get_shape()[1]

    def update(self, path: str | Path) -> None:
        """Adds the prompts of a file, if it is there, made by the same encoder; a ValueError where by another."""
        if Path(path).is_file():
            other = PromptBank.load(path)
            if other.description:
                self._check(other.description)
            self.put(other.prompts, *other[other.prompts])

    def _check(self, description: dict[str, Any]) -> None:
        if self.description and description["hash"] != self.description.get("hash"):
            raise ValueError(
                f"the text encoder has hash {description['hash']}; the stored prompts were made by one with hash "
                f"{self.description.get('hash')}"
            )
        self.description = description


def _described(metadata: dict[str, str]) -> dict[str, Any]:
    """What a file says of itself; those of before had an entry for each."""
    if KEY in metadata:
        return json.loads(metadata[KEY])
    return {key: json.loads(value) if key in ("encoder", "prompts") else value for key, value in metadata.items()}


def _stack(entries: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    contexts, pooled = zip(*entries, strict=True)
    return torch.stack(contexts), torch.stack(pooled)
