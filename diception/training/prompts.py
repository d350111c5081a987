"""The prompt bank of a run: made once, by rank 0, before training, so that no text encoder is loaded in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from diception.datasets.mixture import Pair
from diception.model.bank import PromptBank
from diception.tasks import Task
from diception.tasks.categories import COCO_CATEGORIES

FILE = "prompts.safetensors"
WAIT_S, POLL_S = 3600.0, 1.0
"""How long the other ranks wait for rank 0, and how often they look."""


def fill_bank(bank: PromptBank, pairs: Sequence[Pair], folder: Path) -> None:
    """Adds every prompt that the tasks of a stream's pairs are known to ask to a bank whose encoder is expensive.

    Rank 0 encodes what the run folder's file does not have yet and forgets its encoders; the others wait for the file.
    A category that is neither in its task's vocabulary nor COCO's is encoded when it first comes up, by every rank:
    better name it in the vocabulary.

    Raises:
        TimeoutError: rank 0 has not written the file within an hour.
    """
    wanted = {"", *(prompt for pair in pairs for prompt in known_prompts(pair.task))}
    if not bank.loads_encoder or wanted <= set(bank.prompts):
        return
    path = folder / FILE
    if rank_zero_only.rank == 0:
        bank.update(path)
        bank.add(sorted(wanted - set(bank.prompts)))
        bank.release_encoder()
        bank.save(path)
    deadline = time.monotonic() + WAIT_S
    while not wanted <= set(bank.prompts):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} lacks prompts after {WAIT_S:.0f} s: rank 0 has not made them")
        time.sleep(POLL_S)
        bank.update(path)


def known_prompts(task: Task) -> list[str]:
    """What a task asks: its token, with every category that it may name."""
    if not task.takes_category:
        return [task.prompt()]
    return [task.prompt(category) for category in getattr(task, "vocabulary", ()) or COCO_CATEGORIES]
