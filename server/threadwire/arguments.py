"""What the command lines have in common: how a command is added, the option of its configuration, types of values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """Add a command, or an action of one, to what ``add_subparsers`` gave; ``about`` is its line in the help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
    )
    return parser


def add_actions(
    commands: Any, name: str, about: str, run: Callable[[argparse.Namespace], int], whats: dict[str, str]
) -> dict[str, argparse.ArgumentParser]:
    """Add a command that ``run`` does with one of some actions, ``args.action``; gives their parsers, by name."""
    actions = add_command(commands, name, about).add_subparsers(metavar="ACTION", required=True)
    parsers = {action: add_command(actions, action, what) for action, what in whats.items()}
    for action, parser in parsers.items():
        parser.set_defaults(run=run, action=action)
    return parsers


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="the configuration file (default: ./config.yaml, where there is one)",
    )


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1; got {text!r}")
    return number


def share(text: str) -> float:
    """From 0 to 1, from ``10%`` or ``0.1``."""
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"expected a share like 10% or 0.1; got {text!r}")
    return found
