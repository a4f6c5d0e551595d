"""The ``threadwire`` command. Each subcommand imports what it needs: ``--help`` loads nothing heavy."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threadwire import __version__, simulate_options
from threadwire.errors import StartupError
from threadwire.load import arguments

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
    _add_models(commands)
    _add_storage(commands)
    _add_token(commands)
    _add_config(commands)
    _add_dashboard(commands)
    _add_doctor(commands)
    _add_simulate(commands)
    arguments.add_load(commands)
    arguments.add_soak(commands)
    return parser


# --- serve ---------------------------------------------------------------------------------------


def _add_serve(commands: Any) -> None:
    about = "serve a graph, or the built-in one"
    serve = commands.add_parser("serve", help=about, description=about.capitalize() + ".", allow_abbrev=False)
    serve.add_argument(
        "graph",
        metavar="GRAPH",
        nargs="?",
        help="package.module:attribute or path/to/file.py:attribute",
    )
    _add_config_file(serve)
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
    chat = commands.add_parser("chat", help=about, description=about.capitalize() + ".", allow_abbrev=False)
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
    _add_config_file(chat)
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
    batch = commands.add_parser("batch", help=about, description=about.capitalize() + ".", allow_abbrev=False)
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
        type=_positive,
        help="lines at once (default: limits.max_batch_concurrency)",
    )
    batch.add_argument("--graph", help="package.module:attribute or path/to/file.py:attribute")
    _add_config_file(batch)
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


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text}")
    return number


# --- models --------------------------------------------------------------------------------------


def _add_models(commands: Any) -> None:
    about = "fetch and list the models that run on this machine"
    models = commands.add_parser("models", help=about, description=about.capitalize() + ".", allow_abbrev=False)
    actions = models.add_subparsers(metavar="ACTION", required=True)
    for name, what in (
        ("fetch", "fetch the weights of a model, and print where they are"),
        ("list", "print the models that are known, and which are here"),
        ("path", "print where the weights of a model are"),
    ):
        action = actions.add_parser(name, help=what, description=what.capitalize() + ".", allow_abbrev=False)
        if name != "list":
            action.add_argument(
                "name", metavar="NAME", nargs="?", default="smollm2-135m", help="the model (default: %(default)s)"
            )
        action.set_defaults(run=_models, action=name)


def _models(args: argparse.Namespace) -> int:
    from threadwire.models import commands

    actions = {"fetch": commands.fetch, "list": commands.show_list, "path": commands.path}
    return actions[args.action](args)


# --- storage -------------------------------------------------------------------------------------


def _add_storage(commands: Any) -> None:
    about = "look after the database: what takes room, old checkpoints, backups"
    storage = commands.add_parser("storage", help=about, description=about.capitalize() + ".", allow_abbrev=False)
    actions = storage.add_subparsers(metavar="ACTION", required=True)
    for name, what in (
        ("stats", "print how large it is, and by which tables and threads; also while a server runs"),
        ("prune", "delete checkpoints beyond storage.keep_checkpoints and give back the room; not while a server runs"),
        ("backup", "copy it to a new file; also while a server runs"),
    ):
        action = actions.add_parser(name, help=what, description=what.capitalize() + ".", allow_abbrev=False)
        if name == "backup":
            action.add_argument("file", metavar="FILE", type=Path, help="the new file")
        _add_config_file(action)
        action.set_defaults(run=_storage, action=name)


def _storage(args: argparse.Namespace) -> int:
    from threadwire import config

    settings = config.load(args.config).storage
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    from threadwire.storage import commands

    if args.action == "backup":
        return commands.backup(settings.url, args.file)
    if args.action == "prune":
        return commands.prune(settings.url, settings.keep_checkpoints)
    return commands.stats(settings.url)


# --- token ---------------------------------------------------------------------------------------


def _add_token(commands: Any) -> None:
    about = "make, list and revoke the tokens of auth.mode tokens; also while a server runs"
    token = commands.add_parser("token", help=about, description=about.capitalize() + ".", allow_abbrev=False)
    actions = token.add_subparsers(metavar="ACTION", required=True)
    for name, what in (
        ("create", "make a token for a user, and print it, this once"),
        ("list", "print whose tokens there are, since when and until when"),
        ("revoke", "take a user's token back: their connections are closed within seconds"),
    ):
        action = actions.add_parser(name, help=what, description=what.capitalize() + ".", allow_abbrev=False)
        if name != "list":
            action.add_argument("name", metavar="NAME", help="the user's")
        if name == "create":
            action.add_argument("--expires-in-days", metavar="N", type=_days, help="when it ends (default: never)")
        _add_config_file(action)
        action.set_defaults(run=_token, action=name)


def _token(args: argparse.Namespace) -> int:
    from threadwire import config

    settings = config.load(args.config)
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    from threadwire.auth import commands

    url, fixed = settings.storage.url, settings.auth.tokens
    if args.action == "create":
        code = commands.create(url, args.name, args.expires_in_days, fixed)
        if settings.auth.mode != "tokens":
            sys.stderr.write(f"threadwire: auth.mode is {settings.auth.mode}: it opens nothing until that is tokens\n")
        return code
    if args.action == "revoke":
        return commands.revoke(url, args.name, fixed)
    return commands.show_list(url, fixed)


def _days(text: str) -> float:
    number = float(text)
    if not 0 < number <= 100_000:
        raise argparse.ArgumentTypeError(f"expected a number of days above 0, got {text}")
    return number


# --- config --------------------------------------------------------------------------------------


def _add_config(commands: Any) -> None:
    about = "show or check the configuration"
    config = commands.add_parser("config", help=about, description=about.capitalize() + ".", allow_abbrev=False)
    actions = config.add_subparsers(metavar="ACTION", required=True)
    for name, run, what in (
        ("show", _config_show, "print the settings in force as YAML, secrets masked"),
        ("check", _config_check, "say whether the configuration is right"),
    ):
        action = actions.add_parser(name, help=what, description=what.capitalize() + ".", allow_abbrev=False)
        _add_config_file(action)
        action.set_defaults(run=run)


def _config_show(args: argparse.Namespace) -> int:
    from threadwire import config

    settings, sources = config.load_with_sources(args.config)
    print(f"# from: {', '.join(sources)}")
    print(config.dump_yaml(settings), end="")
    return 0


def _config_check(args: argparse.Namespace) -> int:
    from threadwire import config

    _, sources = config.load_with_sources(args.config)
    print(f"ok: {', '.join(sources)}")
    return 0


def _add_config_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="the configuration file (default: ./config.yaml, where there is one)",
    )


# --- doctor --------------------------------------------------------------------------------------


def _add_doctor(commands: Any) -> None:
    about = "look at what serve would use, and say what is wrong and what to do; 1 where there is a problem"
    doctor = commands.add_parser("doctor", help=about, description=about.capitalize() + ".", allow_abbrev=False)
    doctor.add_argument(
        "graph", metavar="GRAPH", nargs="?", help="package.module:attribute or path/to/file.py:attribute"
    )
    _add_config_file(doctor)
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
    dashboard = commands.add_parser("dashboard", help=about, description=about.capitalize() + ".", allow_abbrev=False)
    dashboard.set_defaults(run=_dashboard)


def _dashboard(_args: argparse.Namespace) -> int:
    import json

    from threadwire.dashboard import dashboard

    print(json.dumps(dashboard(), indent=2))
    return 0


# --- simulate ------------------------------------------------------------------------------------


def _add_simulate(commands: Any) -> None:
    about = "run the simulated model as an OpenAI-compatible HTTP server, for tests and load"
    simulate = commands.add_parser("simulate", help=about, description=about + ".", allow_abbrev=False)
    simulate_options.add_arguments(simulate)
    simulate.set_defaults(run=_simulate)


def _simulate(args: argparse.Namespace) -> int:
    from threadwire import simulate

    simulate.run(args.host, args.port, simulate_options.read(args))
    return 0
