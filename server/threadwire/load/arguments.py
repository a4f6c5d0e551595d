"""The command lines of ``threadwire load`` and ``threadwire soak``. Loads nothing: ``--help`` is quick."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

from threadwire.arguments import add_command, positive, share

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|min|h)?\Z")
_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SHARES = {
    "cancel": "cancel their answers in the middle",
    "vanish": "lose their connection in the middle, without a close, and come back",
    "slow-reader": "hardly read",
    "second-tab": "have a second connection on their thread",
    "idle": "are connected and say nothing",
}


def add_load(commands: Any) -> None:
    """Add ``load``."""
    about = "put load on a server, check its promises while it bears it, and report what it was like"
    load = add_command(commands, "load", about)
    load.add_argument("url", metavar="URL", nargs="?", help="ws://HOST:PORT/ws, or wss://")
    load.add_argument("--compare", nargs=2, type=Path, metavar="JSON", help="instead: compare two results")
    _add_amount(load, sessions=10, turns=1)
    load.add_argument(
        "--arrivals-per-second",
        type=_above_zero,
        default=0.0,
        metavar="R",
        help="sessions arrive by chance at this rate, however slow the server is (an open loop)",
    )
    load.add_argument("--duration", type=duration, default=0.0, metavar="TIME", help="end after so long: 90s, 10m, 1h")
    _add_words(load)
    _add_shares(load, {})
    _add_connecting(load)
    _add_checking(load)
    _add_results(load)
    load.set_defaults(run=_load)


def add_soak(commands: Any) -> None:
    """Add ``soak``."""
    about = "load a server for hours, with every behaviour, and say whether it grows"
    soak = add_command(commands, "soak", about)
    soak.add_argument("url", metavar="URL", help="ws://HOST:PORT/ws, or wss://")
    _add_amount(soak, sessions=50, turns=5)
    soak.add_argument("--duration", type=duration, default=3600.0, metavar="TIME", help="how long (default: 1h)")
    soak.add_argument("--database", type=Path, metavar="FILE", help="the server's SQLite file, whose growth is watched")
    _add_words(soak)
    _add_shares(soak, {"cancel": 0.1, "vanish": 0.1, "slow-reader": 0.05, "second-tab": 0.1, "idle": 0.15})
    _add_connecting(soak)
    _add_checking(soak)
    _add_results(soak)
    soak.set_defaults(run=_soak, arrivals_per_second=0.0)


def _load(args: argparse.Namespace) -> int:
    from threadwire.load import command

    return command.load(args)


def _soak(args: argparse.Namespace) -> int:
    from threadwire.load import command

    return command.soak(args)


def _add_amount(parser: argparse.ArgumentParser, *, sessions: int, turns: int) -> None:
    parser.add_argument(
        "--sessions", type=positive, default=sessions, metavar="N", help="at the same time (default: %(default)s)"
    )
    parser.add_argument(
        "--turns", type=positive, default=turns, metavar="N", help="of each session (default: %(default)s)"
    )
    parser.add_argument("--ramp", type=duration, default=0.0, metavar="TIME", help="start the sessions over so long")
    parser.add_argument(
        "--think", type=duration, default=0.0, metavar="TIME", help="between two turns, give or take a half"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all chances (default: %(default)s)")
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="that generate the load (default: %(default)s)"
    )


def _add_words(parser: argparse.ArgumentParser) -> None:
    said = parser.add_mutually_exclusive_group()
    said.add_argument(
        "--message",
        default="Hello, this is session {session}, turn {turn}.",
        metavar="TEXT",
        help="what each session says; {session} and {turn} are replaced by their numbers",
    )
    said.add_argument("--script", type=Path, metavar="YAML", help="conversations, see docs/load-testing.md")
    said.add_argument("--replay", type=Path, metavar="JSONL", help="recorded messages, said again at their times")
    parser.add_argument(
        "--replay-speed",
        type=_above_zero,
        default=1.0,
        metavar="X",
        help="so many times as fast (default: %(default)s)",
    )


def _add_shares(parser: argparse.ArgumentParser, defaults: dict[str, float]) -> None:
    for name, what in _SHARES.items():
        default = defaults.get(name, 0.0)
        parser.add_argument(
            f"--{name}",
            type=share,
            default=default,
            metavar="SHARE",
            help=f"sessions that {what}, as 10%% (default: {default:.0%})".replace("0%)", "0%%)").replace(
                "5%)", "5%%)"
            ),
        )


def _add_connecting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--token", metavar="TOKEN", help="the credential of every session")
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="a credential a line; session n takes the n-th")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificates to trust, in PEM")
    parser.add_argument("--insecure", action="store_true", help="trust any certificate")
    parser.add_argument(
        "--source", action="append", default=[], metavar="ADDRESS", help="connect from it; again for more of them"
    )


def _add_checking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--turn-timeout", type=_some_time, default=120.0, metavar="TIME", help="a turn ends within it (default: 2m)"
    )
    parser.add_argument(
        "--cancel-deadline",
        type=duration,
        default=5.0,
        metavar="TIME",
        help="the server's runs.cancel_deadline_seconds (default: 5s)",
    )
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="VIOLATION", help="do not count it; again for more of them"
    )
    parser.add_argument(
        "--fail-if", action="append", default=[], metavar="CONDITION", help="as first_token_p99>1.5s; again for more"
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pid", type=int, metavar="PID", help="the server's process, whose cpu and memory are watched")
    parser.add_argument("--metrics", metavar="URL", help="where its /metrics is (default: at the server's own address)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a page with plots there (HTML)")


def duration(text: str) -> float:
    """Seconds, from ``90``, ``90s``, ``1.5m``, ``1h`` or ``500ms``."""
    found = _DURATION.match(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a time like 90s, 10m or 1h; got {text!r}")
    return float(found[1]) * _UNITS[found[2] or ""]


def _some_time(text: str) -> float:
    try:
        found = duration(text)
    except argparse.ArgumentTypeError:
        found = 0.0
    if not found:
        raise argparse.ArgumentTypeError(f"expected a time like 90s, 10m or 1h, above 0; got {text!r}")
    return found


def _above_zero(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0; got {text!r}")
    return found
