"""The three text encoders of Stable Diffusion 3, which make the entries of the prompt bank."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from diception.model.hashing import weights_hash

FOLDERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
CLIP_LENGTH = 77
T5_LENGTH = 256


class StableDiffusion3Encoder:
    """CLIP-L, CLIP-G and T5: context of 77 + 256 tokens of T5's width, and both pooled CLIP embeddings."""

    def __init__(
        self,
        clips: Sequence[CLIPTextModelWithProjection],
        clip_tokenizers: Sequence[CLIPTokenizer],
        t5: T5EncoderModel,
        t5_tokenizer: T5Tokenizer,
        t5_length: int = T5_LENGTH,
    ):
        if t5.dtype == torch.float16:
            raise ValueError("T5 is in float16, where it overflows; allowed: bfloat16, float32")
        self._clips: list[Any] = list(clips)
        self._clip_tokenizers: list[Any] = list(clip_tokenizers)
        self._t5: Any = t5
        self._t5_tokenizer: Any = t5_tokenizer
        self._t5_length = t5_length
        self._description: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> StableDiffusion3Encoder:
        """Loads the encoders of a diffusers directory; where `dtype` is float16 T5 is in bfloat16.

        Raises:
            ValueError: the directory lacks one of the encoders or tokenizers; names what is missing.
        """
        root = Path(directory)
        missing = [name for name in FOLDERS if not (root / name).is_dir()]
        if missing:
            raise ValueError(f"{root} has no {', '.join(missing)}: not the text encoders of Stable Diffusion 3")
        t5_dtype = torch.bfloat16 if dtype == torch.float16 else dtype
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
        models: list[Any] = [
            CLIPTextModelWithProjection.from_pretrained(root / FOLDERS[0], dtype=dtype, **options),
            CLIPTextModelWithProjection.from_pretrained(root / FOLDERS[1], dtype=dtype, **options),
            T5EncoderModel.from_pretrained(root / FOLDERS[2], dtype=t5_dtype, **options),
        ]
        tokenizers = [CLIPTokenizer.from_pretrained(root / n, local_files_only=True) for n in FOLDERS[3:5]]
        t5_tokenizer = T5Tokenizer.from_pretrained(root / FOLDERS[5], local_files_only=True)
        models = [model.eval().requires_grad_(False).to(device) for model in models]
        return cls(models[:2], tokenizers, models[2], t5_tokenizer)

    @property
    def max_length(self) -> int:
        """L, tokens of every context."""
        return CLIP_LENGTH + self._t5_length

    def describe(self) -> dict[str, Any]:
        """The hash of each encoder and one of them all."""
        if not self._description:
            names = ("clip_l", "clip_g", "t5")
            models = (*self._clips, self._t5)
            hashes = {name: weights_hash(model.state_dict()) for name, model in zip(names, models, strict=True)}
            joined = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:16]
            self._description = {"type": "stable_diffusion_3", "hash": joined, "max_length": self.max_length, **hashes}
        return self._description

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context (B, 333, T5 width) and pooled (B, CLIP-L width + CLIP-G width), both in T5's type.

        Raises:
            ValueError: a prompt is longer than CLIP's 77 tokens.
        """
        hidden, pooled = zip(*[self._clip(index, prompts) for index in range(2)], strict=True)
        # T5 sees its padding: Stable Diffusion 3 was trained without a mask.
        ids = self._ids(self._t5_tokenizer, prompts, self._t5_length)
        t5 = self._t5(ids.to(self._t5.device))[0]
        clip = torch.cat(hidden, dim=-1).to(t5)
        clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, t5], dim=1), torch.cat(pooled, dim=-1).to(t5)

    def _clip(self, index: int, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Penultimate hidden states (B, 77, width) and projected pooled embedding (B, width)."""
        encoder = self._clips[index]
        ids = self._ids(self._clip_tokenizers[index], prompts, CLIP_LENGTH)
        output = encoder(ids.to(encoder.device), output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    @staticmethod
    def _ids(tokenizer: Any, prompts: Sequence[str], length: int) -> Tensor:
        ids = tokenizer(list(prompts), padding="max_length", max_length=length, return_tensors=None)["input_ids"]
        for prompt, row in zip(prompts, ids, strict=True):
            if len(row) > length:
                raise ValueError(f"prompt {prompt!r} has {len(row)} tokens; at most {length} fit")
        return torch.tensor(ids)
