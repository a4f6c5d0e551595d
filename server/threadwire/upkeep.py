"""The commands that look after what a server uses: ``models``, ``storage``, ``token`` and ``config``.

As in ``cli.py``, each imports what it needs when it is run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from threadwire.arguments import add_actions, add_config_file


def add_models(commands: Any) -> None:
    """Add ``models``."""
    whats = {
        "fetch": "fetch the weights of a model, and print where they are",
        "list": "print the models that are known, and which are here",
        "path": "print where the weights of a model are",
    }
    actions = add_actions(commands, "models", "fetch and list the models that run on this machine", _models, whats)
    for name in ("fetch", "path"):
        actions[name].add_argument(
            "name", metavar="NAME", nargs="?", default="smollm2-135m", help="the model (default: %(default)s)"
        )


def _models(args: argparse.Namespace) -> int:
    from threadwire.models import commands

    actions = {"fetch": commands.fetch, "list": commands.show_list, "path": commands.path}
    return actions[args.action](args)


def add_storage(commands: Any) -> None:
    """Add ``storage``."""
    about = "look after the database: what takes room, old checkpoints, backups"
    whats = {
        "stats": "print how large it is, and by which tables and threads; also while a server runs",
        "prune": "delete checkpoints beyond storage.keep_checkpoints and give back the room; not while a server runs",
        "backup": "copy it to a new file; also while a server runs",
    }
    actions = add_actions(commands, "storage", about, _storage, whats)
    actions["backup"].add_argument("file", metavar="FILE", type=Path, help="the new file")
    for action in actions.values():
        add_config_file(action)


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


def add_token(commands: Any) -> None:
    """Add ``token``."""
    about = "make, list and revoke the tokens of auth.mode tokens; also while a server runs"
    whats = {
        "create": "make a token for a user, and print it, this once",
        "list": "print whose tokens there are, since when and until when",
        "revoke": "take a user's token back: their connections are closed within seconds",
    }
    actions = add_actions(commands, "token", about, _token, whats)
    for name in ("create", "revoke"):
        actions[name].add_argument("name", metavar="NAME", help="the user's")
    actions["create"].add_argument("--expires-in-days", metavar="N", type=_days, help="when it ends (default: never)")
    for action in actions.values():
        add_config_file(action)


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


def add_config(commands: Any) -> None:
    """Add ``config``."""
    whats = {
        "show": "print the settings in force as YAML, secrets masked",
        "check": "say whether the configuration is right",
    }
    for action in add_actions(commands, "config", "show or check the configuration", _config, whats).values():
        add_config_file(action)


def _config(args: argparse.Namespace) -> int:
    from threadwire import config

    settings, sources = config.load_with_sources(args.config)
    if args.action == "check":
        sys.stdout.write(f"ok: {', '.join(sources)}\n")
    else:
        sys.stdout.write(f"# from: {', '.join(sources)}\n{config.dump_yaml(settings)}")
    return 0
