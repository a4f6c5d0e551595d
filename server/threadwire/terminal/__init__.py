"""``threadwire chat``: a conversation in the terminal, and one answer for scripts.

A run of it: address (which server) → own_server (or one of its own) → conversation (with screen, turn_view, editor), or
once where there is a message and nobody to type. All of it stands on ``threadwire.client`` and knows nothing of
graphs or storage. rich and prompt_toolkit (extra ``chat``) are loaded by ``conversation`` only.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from threadwire.client import Disconnected, connect
from threadwire.errors import InvalidArgument, StartupError
from threadwire.protocol import CloseCode, check_thread_id
from threadwire.terminal.address import find_server, server_url
from threadwire.terminal.signals import Signals
from threadwire.terminal.texts import note

INSTALL_HINT = "pip install 'threadwire[chat]'"
#: A script waits that many failed attempts in a row for a server that is away, about a minute; a person decides alone.
MAX_RECONNECTS_OF_A_SCRIPT = 20


@dataclass(frozen=True, slots=True)
class Options:
    """The command line: see docs/terminal.md."""

    url: str | None = None
    thread_id: str | None = None
    message: str | None = None
    token: str | None = None
    config: Path | None = None


def chat(options: Options) -> int:
    """Talk, and give the exit code.

    Raises:
        StartupError: there is nothing to say, nobody to say it to, or no way to show it.
    """
    _check(options)
    message = options.message
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if message is None:
        _check_terminal()
    elif not message:
        raise StartupError("there is nothing to say: the message is empty")
    return asyncio.run(_chat(options, message))


def _check(options: Options) -> None:
    try:
        if options.thread_id is not None:
            check_thread_id(options.thread_id)
    except InvalidArgument as invalid:
        raise StartupError(f"--thread: {invalid.message}") from invalid
    if options.url is not None:
        server_url(options.url)


def _check_terminal() -> None:
    if not sys.stdout.isatty():
        raise StartupError("stdout is no terminal: for an answer in a file or a pipe, say what to with --message")
    if missing := [name for name in ("rich", "prompt_toolkit") if importlib.util.find_spec(name) is None]:
        raise StartupError(
            f"a conversation needs {' and '.join(missing)}: {INSTALL_HINT}; one answer goes without: --message TEXT"
        )


async def _chat(options: Options, message: str | None) -> int:
    """All that needs a loop; a signal cancels it, and what was opened is closed."""
    signals = Signals()
    try:
        async with AsyncExitStack() as stack:
            url = await find_server(options.url, options.config, stack, signals)
            if message is not None:
                return await _once(url, options, message, signals)
            from threadwire.terminal.conversation import converse

            return await converse(url, options.thread_id, options.token, signals)
    except Disconnected as error:
        raise StartupError(_refused(error)) from error
    except asyncio.CancelledError:
        if signals.exit_code is None:
            raise
        return signals.exit_code
    finally:
        signals.close()


async def _once(url: str, options: Options, message: str, signals: Signals) -> int:
    from threadwire.terminal.once import answer_once

    opening = connect(url, thread_id=options.thread_id, token=options.token, max_reconnects=MAX_RECONNECTS_OF_A_SCRIPT)
    async with opening as chat:
        if options.thread_id is None:
            note(f"thread {chat.thread_id}")
        return await answer_once(chat, message, signals)


def _refused(error: Disconnected) -> str:
    """Why there is no conversation, and what helps."""
    if error.code in (CloseCode.UNAUTHORIZED, CloseCode.NO_CREDENTIAL) or error.http_status == 401:
        return "the server asks for a token that it knows: --token TOKEN, or THREADWIRE_TOKEN in the environment"
    if error.http_status in (404, 405):
        return f"there is no threadwire server: {error.reason}"
    return f"cannot connect: {error.reason or error.code}"
