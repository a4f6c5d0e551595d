"""The ``threadwire`` command. Each subcommand imports what it needs: ``--help`` loads nothing heavy."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threadwire import __version__, simulate_options, upkeep
from threadwire.arguments import add_command, add_config_file, positive
from threadwire.errors import StartupError
from threadwire.load.arguments import add_load, add_soak

#: Exit codes: what the operator can mend, and Ctrl-C (128 + SIGINT).
EXIT_STARTUP_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give the exit code; a ``StartupError`` is told in a line and is 2.

    Raises:
        SystemExit: argparse's, after ``--help``, ``--version`` or a wrong argument.
    """
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except StartupError as error:
        if args.debug:
            traceback.print_exc()
        for line in error.message.splitlines():
            print(f"threadwire: {line}", file=sys.stderr)
        return EXIT_STARTUP_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="threadwire",
        description="Serve any LangGraph graph as persistent, multi-session chat over WebSocket.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"threadwire {__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_chat(commands)
    _add_batch(commands)
    upkeep.add_models(commands)
    upkeep.add_storage(commands)
    upkeep.add_token(commands)
    upkeep.add_config(commands)
    _add_dashboard(commands)
    _add_doctor(commands)
    _add_simulate(commands)
    add_load(commands)
    add_soak(commands)
    return parser


# --- serve ---------------------------------------------------------------------------------------


def _add_serve(commands: Any) -> None:
    about = "serve a graph, or the built-in one"
    serve = add_command(commands, "serve", about)
    serve.add_argument(
        "graph",
        metavar="GRAPH",
        nargs="?",
        help="package.module:attribute or path/to/file.py:attribute",
    )
    add_config_file(serve)
    serve.add_argument("--host", help="the address to listen on")
    serve.add_argument("--port", type=int, help="the port to listen on; 0 takes a free one")
    serve.add_argument("--debug", action="store_true", help="log more, and show tracebacks")
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from threadwire import config

    settings = config.load(args.config, _overrides(args))
    # langgraph reads it when it is imported: a tampered database must not run code.
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    from threadwire import serving

    return serving.serve(settings, debug=args.debug)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    if args.graph is not None:
        overrides["graph"] = args.graph
    server = {key: value for key in ("host", "port") if (value := getattr(args, key)) is not None}
    if server:
        overrides["server"] = server
    return overrides


# --- chat ----------------------------------------------------------------------------------------


def _add_chat(commands: Any) -> None:
    about = "talk to a server in the terminal, or have one message answered"
    chat = add_command(commands, "chat", about)
    chat.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        help="HOST:PORT, http://HOST:PORT or wss://HOST/ws (default: the server of this configuration, started where"
        " none runs)",
    )
    chat.add_argument("--thread", metavar="ID", help="go on with this conversation (default: a new one)")
    chat.add_argument("--message", metavar="TEXT", help="print the answer to this and exit, as with a message on stdin")
    chat.add_argument("--token", help="the credential (default: THREADWIRE_TOKEN of the environment)")
    add_config_file(chat)
    chat.set_defaults(run=_chat)


def _chat(args: argparse.Namespace) -> int:
    from threadwire import terminal

    return terminal.chat(
        terminal.Options(
            url=args.url,
            thread_id=args.thread,
            message=args.message,
            token=args.token or os.environ.get("THREADWIRE_TOKEN") or None,
            config=args.config,
        )
    )


# --- batch ---------------------------------------------------------------------------------------


def _add_batch(commands: Any) -> None:
    about = "run every line of a file through the configured graph, and go on where an interruption left off"
    batch = add_command(commands, "batch", about)
    batch.add_argument("file", metavar="FILE", type=Path, help='inputs, JSON lines: {"content": "..."}')
    batch.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help='results, added as JSON lines: {"index": N, "message": {...}} or {"index": N, "error": {...}}',
    )
    batch.add_argument(
        "--max-concurrency",
        metavar="N",
        type=positive,
        help="lines at once (default: limits.max_batch_concurrency)",
    )
    batch.add_argument("--graph", help="package.module:attribute or path/to/file.py:attribute")
    add_config_file(batch)
    batch.add_argument("--debug", action="store_true", help="show tracebacks")
    batch.set_defaults(run=_batch)


def _batch(args: argparse.Namespace) -> int:
    from threadwire import config, logs

    settings = config.load(args.config, {} if args.graph is None else {"graph": args.graph})
    # As `serve` does: langgraph reads it when it is imported.
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    from threadwire import batch_file, masking

    secrets = set(masking.secrets_in(settings.model_dump()))
    logs.configure(secrets=secrets, include_content=settings.logs.include_content)
    return batch_file.run(settings, args.file, args.out, args.max_concurrency)


# --- doctor --------------------------------------------------------------------------------------


def _add_doctor(commands: Any) -> None:
    about = "look at what serve would use, and say what is wrong and what to do; 1 where there is a problem"
    doctor = add_command(commands, "doctor", about)
    doctor.add_argument(
        "graph", metavar="GRAPH", nargs="?", help="package.module:attribute or path/to/file.py:attribute"
    )
    add_config_file(doctor)
    doctor.add_argument("--host", help="the address to listen on")
    doctor.add_argument("--port", type=int, help="the port to listen on")
    doctor.add_argument("--json", action="store_true", help="print a JSON list instead of lines")
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    # As `serve` does: langgraph reads it when it is imported.
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    from threadwire import doctor

    return doctor.run(args.config, _overrides(args), as_json=args.json)


# --- dashboard -----------------------------------------------------------------------------------


def _add_dashboard(commands: Any) -> None:
    about = "print a Grafana dashboard of the server's metrics, to be imported"
    dashboard = add_command(commands, "dashboard", about)
    dashboard.set_defaults(run=_dashboard)


def _dashboard(_args: argparse.Namespace) -> int:
    import json

    from threadwire.dashboard import dashboard

    print(json.dumps(dashboard(), indent=2))
    return 0


# --- simulate ------------------------------------------------------------------------------------


def _add_simulate(commands: Any) -> None:
    about = "run the simulated model as an OpenAI-compatible HTTP server, for tests and load"
    simulate = add_command(commands, "simulate", about)
    simulate_options.add_arguments(simulate)
    simulate.set_defaults(run=_simulate)


def _simulate(args: argparse.Namespace) -> int:
    from threadwire import simulate

    simulate.run(args.host, args.port, simulate_options.read(args))
    return 0
