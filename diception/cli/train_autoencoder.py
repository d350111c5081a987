"""`diception train-autoencoder`: the small autoencoder."""

from __future__ import annotations

import argparse

from diception.cli.keys_option import add_keys_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_keys_option(parser)
    parser.add_argument("config", help="a yaml file, or the name of a shipped config such as tiny/autoencoder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options, nested by dots: data.size=128")


def run(arguments: argparse.Namespace) -> None:
    from diception.config import AutoencoderConfig, load_config
    from diception.training.autoencoder import train_autoencoder

    print(f"autoencoder: {train_autoencoder(load_config(arguments.config, arguments.overrides, AutoencoderConfig))}")
