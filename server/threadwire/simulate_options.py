"""The command line of ``threadwire simulate``, and what it comes to. Light: ``--help`` loads no server."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from threadwire.arguments import positive, share
from threadwire.errors import StartupError


@dataclass(frozen=True, slots=True)
class Options:
    """How a simulated provider behaves. ``tokens_per_second`` 0 is as fast as possible, ``tokens`` None a sentence."""

    tokens_per_second: float = 50.0
    first_token_ms: float = 200.0
    tokens: int | None = None
    first_token_sigma: float = 0.0
    burst: int = 1
    error_rate: float = 0.0
    stall_rate: float = 0.0
    #: Requests a minute, after which they are refused with 429; 0 is no limit.
    rate_limit: int = 0
    #: ``(weight, what to do)``: the answers to messages that do not direct theirs.
    script: tuple[tuple[float, str], ...] = ()
    seed: int = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them all; ``read`` makes ``Options`` of what was parsed."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8100, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--tokens-per-second",
        type=_not_negative,
        default=50.0,
        metavar="R",
        help="how fast an answer comes; 0 is as fast as possible (default: %(default)s)",
    )
    parser.add_argument(
        "--first-token-ms",
        type=_not_negative,
        default=200.0,
        metavar="F",
        help="milliseconds before its first token (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens", type=positive, metavar="N", help="answer with exactly N tokens (default: a sentence)"
    )
    _add_variety(parser)


def _add_variety(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--first-token-sigma",
        type=_not_negative,
        default=0.0,
        metavar="S",
        help="spread the first token log-normally around its time, with this sigma, as 0.5",
    )
    parser.add_argument(
        "--burst", type=positive, default=1, metavar="N", help="so many tokens come at once, on average"
    )
    parser.add_argument(
        "--error-rate", type=share, default=0.0, metavar="SHARE", help="answers that are an error (500 or 503), as 1%%"
    )
    parser.add_argument(
        "--stall-rate", type=share, default=0.0, metavar="SHARE", help="answers that stop in the middle and never end"
    )
    parser.add_argument(
        "--rate-limit",
        type=_count,
        default=0,
        metavar="N",
        help="requests a minute; more are refused with 429 and Retry-After",
    )
    parser.add_argument("--script", type=Path, metavar="YAML", help="how to answer, tool calls too: see docs/models.md")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all chances (default: %(default)s)")


def read(args: argparse.Namespace) -> Options:
    """Raises ``StartupError``: the script cannot be read."""
    values = {field.name: getattr(args, field.name) for field in fields(Options)}
    return Options(**{**values, "script": _read_script(args.script)})


def _read_script(path: Path | None) -> tuple[tuple[float, str], ...]:
    """A YAML list of ``{say, weight}``, where weight is 1 if it is not there."""
    if path is None:
        return ()
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        script = tuple((float(entry.get("weight", 1)), str(entry["say"])) for entry in found)
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StartupError(f"{path}: expected a list of entries with say, and weight if you like: {error}") from error
    if not script or any(weight <= 0 for weight, _ in script):
        raise StartupError(f"{path}: expected at least one entry, and weights above 0")
    return script


def _port(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535; got {text!r}")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0; got {text!r}")
    return int(text)


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0; got {text!r}")
    return number
