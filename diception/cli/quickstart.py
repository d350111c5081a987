"""`diception quickstart`: the life cycle of a model, with a report."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart"), help="folder for everything (default quickstart)"
    )
    parser.add_argument("--model", default="tiny", help="a model directory, or `tiny` (default)")
    parser.add_argument("--photo", type=Path, help="a photograph of yours (default: one that travels with the package)")
    parser.add_argument("--fast", action="store_true", help="a few steps of everything, to see that it runs")


def run(arguments: argparse.Namespace) -> None:
    from diception.quickstart import QuickstartSettings, run_quickstart

    settings = QuickstartSettings(arguments.out, arguments.model)
    if arguments.photo:
        settings.photo = arguments.photo
    if arguments.fast:
        settings.scenes, settings.held_out, settings.steps = 64, 8, 20
        settings.adapter_steps, settings.adapter_images = 20, 8
    print(f"report: {run_quickstart(settings).resolve()}")
