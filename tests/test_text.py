"""The prompt bank and the encoders behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden.weights import write_stable_diffusion
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diception.model.bank import MOVED, PromptBank
from diception.model.text import TOKEN, WordHashEncoder
from diception.model.text_encoders import StableDiffusion3Encoder

# The vector of `depth`; were it to change, every stored small model would stop understanding new prompts.
DEPTH = (2.1631457805633545, -0.06173618510365486, -1.243817925453186)
PROMPTS = ["", "[[image2depth]]", "[[image2semantic]] potted plant"]


def test_a_new_token_shares_its_words_with_the_known_ones() -> None:
    assert TOKEN.findall("[[image2crack_2]] été") == ["[[", "image", "2", "crack", "_", "2", "]]", "été"]
    context, _ = WordHashEncoder()(["[[image2crack]]", "[[image2depth]]"])
    same = (context[0] == context[1]).all(-1)
    assert same.tolist() == [True, True, True, False, True] + [True] * 11


def test_words_are_unit_gaussians_fixed_for_ever() -> None:
    encoder = WordHashEncoder(width=4096, max_length=4)
    context, pooled = encoder(["[[image2depth]]"])
    assert abs(context[0, 1].mean()) < 0.1 and abs(context[0, 1].std() - 1) < 0.05
    assert abs(pooled.std() - 1) < 0.1
    first = WordHashEncoder(width=3, max_length=2)(["depth"])[0][0, 0]
    torch.testing.assert_close(first, torch.tensor(DEPTH), atol=1e-6, rtol=0)


def test_empty_prompt_is_zeros_and_case_does_not_matter() -> None:
    encoder = WordHashEncoder()
    context, pooled = encoder(["", "Person", "person"])
    assert not context[0].any() and not pooled[0].any()
    assert torch.equal(context[1], context[2])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_bank_saves_and_loads(tmp_path: Path, dtype: torch.dtype | None) -> None:
    bank = PromptBank(WordHashEncoder(32, 8))
    bank.add(PROMPTS)
    bank.save(tmp_path / "prompts.safetensors", dtype)
    loaded = PromptBank.load(tmp_path / "prompts.safetensors")
    assert loaded.prompts == sorted(PROMPTS)
    for found, expected in zip(loaded[PROMPTS], bank[PROMPTS], strict=True):
        assert torch.equal(found, expected.to(found.dtype)) and found.dtype == (dtype or torch.float32)
    assert loaded.description == bank.description
    assert loaded[["never seen"]][0].shape == (1, 8, 32)


def test_the_same_bank_gives_the_same_bytes_and_older_files_are_read(tmp_path: Path) -> None:
    bank = PromptBank(WordHashEncoder(32, 8))
    bank.add(PROMPTS)
    file = tmp_path / "prompts.safetensors"
    bank.save(file)
    written = file.read_bytes()
    with safe_open(str(file), framework="pt") as opened:
        (described,) = (json.loads(value) for value in opened.metadata().values())
    PromptBank.load(file).save(file)
    assert file.read_bytes() == written and described["max_length"] == 8
    older = {key: json.dumps(described[key]) for key in ("prompts", "encoder")} | {"format": described["format"]}
    save_file(load_file(file), file, older)
    loaded = PromptBank.load(file)
    assert loaded.prompts == bank.prompts and loaded.description == bank.description


def test_lookup_follows_the_prompts_order_and_repeats_them() -> None:
    bank = PromptBank(WordHashEncoder(32, 8))
    asked = [PROMPTS[2], PROMPTS[0], PROMPTS[2]]
    context, pooled = bank.lookup(asked, torch.device("cpu"), torch.bfloat16)
    assert torch.equal(context, bank[asked][0].bfloat16()) and torch.equal(pooled, bank[asked][1].bfloat16())


def test_lookup_sees_a_replaced_prompt() -> None:
    bank = PromptBank(WordHashEncoder(32, 8))
    bank.lookup(["a"], torch.device("cpu"), torch.float32)
    bank.put(["a"], torch.ones(1, 8, 32), torch.ones(1, 32))
    assert bank.lookup(["a"], torch.device("cpu"), torch.float32)[0].eq(1).all()


def test_unknown_prompt_without_encoder_names_the_known_ones_and_the_remedy() -> None:
    bank = PromptBank()
    bank.put(["[[image2depth]]"], torch.zeros(1, 8, 32), torch.zeros(1, 32))
    with pytest.raises(ValueError, match=r"'\[\[image2nothing\]\]'.*'\[\[image2depth\]\]'.*diception prompts add"):
        bank[["[[image2nothing]]"]]
    with pytest.raises(ValueError, match="shapes"):
        bank.put(["b"], torch.zeros(1, 9, 32), torch.zeros(1, 32))


def test_an_encoder_that_did_not_make_the_bank_is_refused(tmp_path: Path) -> None:
    bank = PromptBank(WordHashEncoder(32, 8))
    bank.add(PROMPTS)
    bank.description = bank.description | {"type": "other"}
    bank.save(tmp_path / "p.safetensors")
    assert PromptBank.load(tmp_path / "p.safetensors", lambda: WordHashEncoder(32, 8))[["new"]][0].shape == (1, 8, 32)
    with pytest.raises(ValueError, match="hash"):
        PromptBank.load(tmp_path / "p.safetensors", lambda: WordHashEncoder(32, 9))[["new"]]


def test_files_that_are_no_bank_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no prompt bank"):
        PromptBank.load(tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="empty"):
        PromptBank().save(tmp_path / "empty.safetensors")


def test_sd3_encoders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_encoder_3"):
        StableDiffusion3Encoder.from_pretrained(tmp_path)
    write_stable_diffusion(tmp_path)
    encoder = StableDiffusion3Encoder.from_pretrained(tmp_path)
    context, pooled = encoder(PROMPTS)
    assert context.shape == (3, 77 + 256, 64) and pooled.shape == (3, 24 + 32)
    assert not context[:, :77, 56:].any(), "CLIP is padded with zeros to T5's width"
    torch.testing.assert_close(encoder(PROMPTS[1:])[0], context[1:], atol=1e-5, rtol=1e-4)
    half = StableDiffusion3Encoder.from_pretrained(tmp_path, dtype=torch.float16)
    assert half(PROMPTS)[0].dtype == torch.bfloat16, "T5 overflows in float16"
    assert StableDiffusion3Encoder.from_pretrained(tmp_path, dtype=torch.bfloat16).describe() == encoder.describe()
    with pytest.raises(ValueError, match="at most 77"):
        encoder(["depth " * 100])


def test_a_device_keeps_the_prompts_that_were_asked_for_last() -> None:
    bank = PromptBank(WordHashEncoder(4, 2))
    where = torch.device("cpu"), torch.float32
    for number in range(2 * MOVED):
        bank.lookup(["always", f"word{number}"], *where)
    assert len(bank._moved) == MOVED and ("always", *where) in bank._moved
    many = [f"word{number}" for number in range(2 * MOVED)]
    assert torch.equal(bank.lookup(many, *where)[0], bank[many][0])


def test_many_prompts_are_encoded_a_few_at_a_time() -> None:
    sizes: list[int] = []

    class Counting(WordHashEncoder):
        def __call__(self, prompts):  # noqa: ANN001, ANN204
            sizes.append(len(prompts))
            return super().__call__(prompts)

    many = [f"word{number}" for number in range(100)]
    bank, whole = PromptBank(Counting(4, 2)), WordHashEncoder(4, 2)(many)
    bank.add(many)
    assert max(sizes) <= 16 and sum(sizes) == 100
    assert all(torch.equal(one, other) for one, other in zip(bank[many], whole, strict=True))
