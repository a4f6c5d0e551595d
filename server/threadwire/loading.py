"""Objects of the user's that the settings name: ``package.module:attribute`` or ``path/to/file.py:attribute``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from threadwire.errors import StartupError


def load_target(target: str, key: str) -> Any:
    """What ``target`` names; ``key`` is the setting it stands in.

    Raises:
        StartupError: it cannot be imported, or has no such attribute. One line that says which.
    """
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise StartupError(f"{key}: expected module:attribute or path/to/file.py:attribute, got {target!r}")
    # The directory the command is run in is importable, as with `python -m`.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = _import_file(Path(where), key) if where.endswith(".py") else importlib.import_module(where)
    except StartupError:
        raise
    except (Exception, SystemExit) as error:
        raise StartupError(f"{key}: cannot import {where}: {one_line(error)}") from error
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = get_close_matches(part, vars(found) if hasattr(found, "__dict__") else (), n=1)
            hint = f"; the nearest there is {near[0]!r}" if near else ""
            raise StartupError(f"{key}: {where} has no attribute {attribute!r}{hint}") from None
    return found


def _import_file(path: Path, key: str) -> ModuleType:
    if not path.is_file():
        raise StartupError(f"{key}: there is no file {path.resolve()}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        # As if it were run as a script: its own siblings are importable.
        sys.path.insert(0, folder)
    # Registered under its own name: the checkpointer finds the state's classes again by module and name.
    name = path.stem if path.stem not in sys.modules else f"threadwire_{key.replace('.', '_')}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StartupError(f"{key}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def one_line(error: BaseException) -> str:
    """An exception in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
