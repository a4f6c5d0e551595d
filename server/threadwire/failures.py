"""What went wrong in a run, as an error of ours: the one place that knows the exceptions of others.

Providers' exceptions are told apart by what they carry (an HTTP status, a code), not by importing every SDK: a graph
may use any. The sentences are ours; what the exception itself says can hold prompts and keys and stays in the
server's log.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from langgraph.errors import GraphRecursionError

from threadwire.errors import (
    ContextTooLong,
    GraphError,
    ModelAuth,
    ModelError,
    ModelRateLimited,
    RecursionLimit,
    StorageError,
    ThreadwireError,
)

#: Packages whose exceptions are a provider's doing, by the first part of their module's name.
_PROVIDERS = frozenset(
    {
        "openai",
        "anthropic",
        "httpx",
        "httpcore",
        "httpx2",
        "httpcore2",
        "google",
        "botocore",
        "cohere",
        "groq",
        "mistralai",
        "ollama",
    }
)


def explain(error: BaseException) -> ThreadwireError:
    """The error of ours that tells of ``error``; its causes are looked at too."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if (found := _one(current)) is not None:
            return found
        if isinstance(current, BaseExceptionGroup):
            current = current.exceptions[0]
        else:
            current = current.__cause__ or current.__context__
    return GraphError("The graph failed. The server's log says why.")


def _one(error: BaseException) -> ThreadwireError | None:
    if isinstance(error, ThreadwireError):
        return error
    if isinstance(error, GraphRecursionError):
        return RecursionLimit("The graph took more steps than the server allows.")
    if isinstance(error, sqlite3.Error):
        return StorageError("The database did not take it.")
    if type(error).__module__.partition(".")[0] in _PROVIDERS:
        return _provider(error)
    if _made_of_an_answer(error):
        return ModelError("The model's provider sent what cannot be read.")
    return None


def _made_of_an_answer(error: BaseException) -> bool:
    """Whether a provider's answer broke what reads it: no SDK has an exception of its own for that.

    An SDK's code raised it where it parses (a proxy's HTML, half a JSON), or LangChain found no chunk in a stream.
    """
    frame = error.__traceback__
    while frame is not None:
        code, module = frame.tb_frame.f_code, str(frame.tb_frame.f_globals.get("__name__"))
        if code.co_name == "generate_from_stream" or (
            isinstance(error, ValueError) and module.partition(".")[0] in _PROVIDERS
        ):
            return True
        frame = frame.tb_next
    return False


def _provider(error: Any) -> ThreadwireError:
    status = getattr(error, "status_code", None)
    code = getattr(error, "code", None)
    # The last is llama.cpp's server.
    kinds = {code, getattr(error, "type", None)}
    if (
        kinds & {"context_length_exceeded", "exceed_context_size_error"}
        or type(error).__name__ == "ContextOverflowError"
    ):
        return ContextTooLong("The conversation is longer than the model takes.")
    if status == 429:
        return ModelRateLimited("The model's provider is getting too many requests.")
    if status in (401, 403):
        return ModelAuth("The model's provider does not accept the server's key.")
    return ModelError("The model's provider failed or could not be reached.")
