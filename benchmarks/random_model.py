"""A model directory of Stable Diffusion 3's size with random weights: what memory and speed can be measured on.

    python benchmarks/random_model.py --model medium --dtype bfloat16 --out runs/random-medium --names nuclei
    diception adapt --model runs/random-medium --preset 8gb --name nuclei --images DIR --targets DIR

Prompts are random too, one for each of the model's tasks and for `--names`, tasks that are to be learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from models import MODELS, build_model

from diception.model.bank import PromptBank
from diception.model.checkpoint import save_model

TOKENS = 333
"""Of a prompt's context: 77 of the two CLIPs, 256 of T5."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="medium")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the stored weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where they are drawn")
    parser.add_argument("--resolution", type=int, default=768)
    parser.add_argument("--names", nargs="*", default=[], help="names of tasks that are to be learned")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with torch.device(arguments.device):
        model = build_model(MODELS[arguments.model])
    config = dict(model.transformer.config)
    prompts = [
        "",
        *(task["token"] for task in model.settings.tasks),
        *(f"[[image2{name}]]" for name in arguments.names),
    ]
    context = torch.randn(len(prompts), TOKENS, config["joint_attention_dim"])
    pooled = torch.randn(len(prompts), config["pooled_projection_dim"])
    model.bank = PromptBank(description={"type": "random", "hash": "random"})
    model.bank.put(prompts, context, pooled)
    model.settings.resolution = arguments.resolution
    dtype = getattr(torch, arguments.dtype)
    print(save_model(model, arguments.out, dtype, autoencoder_dtype=dtype))


if __name__ == "__main__":
    main()
