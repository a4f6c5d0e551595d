"""Where the terminal client keeps what it remembers between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def state_directory() -> Path | None:
    """``threadwire`` in the user's state directory, made for nobody else to read; None where it cannot be."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Application Support"
    else:
        base = "~/.local/state"
    try:
        directory = Path(os.environ.get("XDG_STATE_HOME") or base).expanduser() / "threadwire"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return directory


def private_file(name: str) -> Path | None:
    """A file of that name in there, which only the user can read; None where it cannot be written."""
    directory = state_directory()
    if directory is None:
        return None
    path = directory / name
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return None
    return path
