"""What ``threadwire load`` and ``threadwire soak`` do, from their command line to their exit code."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from threadwire.errors import StartupError
from threadwire.load.options import BEHAVIOURS, Options
from threadwire.load.scenario import Scenario, of_message, read_recording, read_script

EXIT_FINE = 0
#: A promise was broken, a threshold passed, the server grows, or nothing worked at all.
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
INSTALL_HINT = "pip install 'threadwire[load]'"


def load(args: argparse.Namespace) -> int:
    """Run one load, or compare two results; raises ``StartupError``."""
    _check_installed()
    if args.compare:
        if args.url:
            raise StartupError("--compare takes two results and no URL")
        return _compare(*args.compare)
    if not args.url:
        raise StartupError("expected the URL of a server, as ws://127.0.0.1:8000/ws")
    options = _options(args)
    conditions = _conditions(args)
    _check_places(args)
    result = _run(args, options, "load")
    return _finish(args, result, conditions)


def soak(args: argparse.Namespace) -> int:
    """Load for long, and say whether the server grows; raises ``StartupError``."""
    _check_installed()
    from threadwire.load.soak import Soak

    options = _options(args)
    conditions = _conditions(args)
    _check_places(args)
    growth = Soak(args.database)
    result = _run(args, options, "soak", growth.look)
    result["growth"] = growth.findings(result)
    code = _finish(args, result, conditions)
    return code or (EXIT_FAILED if growth.print_findings(result["growth"]) else EXIT_FINE)


def _run(
    args: argparse.Namespace, options: Options, what: str, look: Callable[[], dict[str, Any]] = dict
) -> dict[str, Any]:
    from threadwire.load.ledger import Ledger
    from threadwire.load.result import make_result
    from threadwire.load.run import run
    from threadwire.load.screen import Screen
    from threadwire.load.watch import Watch
    from threadwire.load.worker import run_loop

    ledger = Ledger()
    screen = Screen(f"threadwire {what} {options.url}")
    token = options.credentials[0] if options.credentials else None
    watch = Watch(options.url, args.pid, look, metrics=args.metrics, token=token)
    with screen.shown():
        stopped = run_loop(lambda: run(options, ledger, screen, watch))
    return make_result(options, ledger, stopped=stopped)


def _finish(args: argparse.Namespace, result: dict[str, Any], conditions: list[Any]) -> int:
    """Show and write the result; the exit code it deserves."""
    import orjson

    from threadwire.load.screen import print_lines, print_result
    from threadwire.load.thresholds import nothing_worked

    broken = [why for condition in conditions if (why := condition.broken_by(result))]
    if why := nothing_worked(result):
        broken.insert(0, why)
    result["failed"] = broken
    print_result(result)
    print_lines([f"failed: {why}" for why in broken], style="bold red")
    if args.json:
        _write(args.json, orjson.dumps(result, option=orjson.OPT_INDENT_2))
    if args.report:
        from threadwire.load.report import render

        _write(args.report, render(result).encode())
    if broken or sum(result["violations"].values()):
        return EXIT_FAILED
    return EXIT_INTERRUPTED if result["stopped"] else EXIT_FINE


def _compare(one: Path, other: Path) -> int:
    from threadwire.load.compare import print_comparison
    from threadwire.load.result import read_result

    print_comparison(read_result(one), read_result(other), (one.stem, other.stem))
    return EXIT_FINE


def _options(args: argparse.Namespace) -> Options:
    if not args.url.startswith(("ws://", "wss://")):
        raise StartupError(f"{args.url}: expected ws://HOST:PORT/ws or wss://HOST/ws")
    if args.ca and args.url.startswith("ws://"):
        raise StartupError(f"--ca {args.ca}: there are no certificates on ws://; expected a URL of wss://")
    return Options(
        url=args.url,
        scenario=_scenario(args),
        sessions=args.sessions,
        turns=args.turns,
        ramp_seconds=args.ramp,
        think_seconds=args.think,
        arrivals_per_second=args.arrivals_per_second,
        duration_seconds=args.duration,
        turn_timeout_seconds=args.turn_timeout,
        cancel_deadline_seconds=args.cancel_deadline,
        shares={name: getattr(args, name) for name in BEHAVIOURS if getattr(args, name)},
        seed=args.seed,
        credentials=_credentials(args),
        ca_file=str(args.ca) if args.ca else None,
        insecure=args.insecure,
        sources=_sources(args),
        ignored=tuple(args.ignore),
        processes=args.processes,
    )


def _scenario(args: argparse.Namespace) -> Scenario:
    if args.script:
        return read_script(args.script)
    if args.replay:
        return read_recording(args.replay, args.replay_speed)
    return of_message(args.message)


def _credentials(args: argparse.Namespace) -> tuple[str, ...]:
    if args.tokens is None:
        return (args.token,) if args.token else ()
    try:
        found = tuple(line.strip() for line in args.tokens.read_text(encoding="utf-8").splitlines() if line.strip())
    except OSError as error:
        raise StartupError(f"{args.tokens}: {error.strerror}") from error
    if not found:
        raise StartupError(f"{args.tokens}: there is no token in it")
    return found


def _sources(args: argparse.Namespace) -> tuple[str, ...]:
    for address in args.source:
        try:
            family, kind, _, _, place = socket.getaddrinfo(
                address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )[0]
            with socket.socket(family, kind) as one:
                one.bind(place)
        except OSError as error:
            raise StartupError(f"--source {address}: {error.strerror}") from error
    return tuple(args.source)


def _conditions(args: argparse.Namespace) -> list[Any]:
    from threadwire.load.thresholds import read_threshold

    return [read_threshold(text) for text in args.fail_if]


def _check_places(args: argparse.Namespace) -> None:
    """Find out before the load, and not after an hour of it, that the result cannot be written."""
    for path in filter(None, (args.json, args.report)):
        if path.is_dir():
            fault = errno.EISDIR
        elif not path.parent.is_dir():
            fault = errno.ENOENT
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            fault = errno.EACCES
        else:
            continue
        raise StartupError(f"{path}: {os.strerror(fault)}")


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error


def _check_installed() -> None:
    for name in ("hdrh", "picows", "pygal", "rich"):
        if find_spec(name) is None:
            raise StartupError(f"{name} is missing: {INSTALL_HINT}")
