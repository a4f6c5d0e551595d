# ruff: noqa: N818 -- a failure's name is the protocol's word for it
"""Every failure threadwire can name, as one tree.

::

    ThreadwireError
    ├── StartupError              the operator's: printed as one line, exit code 2
    │   └── ConfigError           ... in the configuration
    ├── CommandError              the client's: answered with an ``error`` frame, the connection lives
    │   ├── BadFrame              bad_frame: not a JSON object
    │   ├── UnknownCommand        unknown_command
    │   ├── InvalidArgument       invalid_argument: names the field
    │   ├── TooLarge              too_large
    │   ├── Busy / QueueFull      busy, queue_full: later, it would work
    │   ├── NoActiveRun / NoSuchRun / NoSuchMessage / NoSuchInterrupt / NoSuchCheckpoint
    │   ├── Unauthorized / Forbidden
    │   └── RateLimited / QuotaExceeded
    ├── RunError                  the model's or the graph's: ends a run, told in its ``run_finished``
    │   ├── ModelError            model_error: the provider failed
    │   ├── ModelRateLimited      model_rate_limited
    │   ├── ModelAuth             model_auth
    │   ├── ContextTooLong        context_too_long
    │   ├── GraphError            graph_error: the user's graph raised
    │   ├── RecursionLimit        recursion_limit
    │   └── RunTimeout            timeout
    └── ServerError               ours
        ├── AuthUnavailable       internal: who somebody is cannot be known now
        ├── StorageError          storage_error
        ├── ShuttingDown          shutting_down
        └── InternalError         internal

Whose fault it is lives in the class; the wire code, whether a retry can help and the HTTP status are attributes of
it. An error's message is a sentence for the client: traces, prompts, keys and file names stay in the server's log.
Pure: knows no asyncio, no aiohttp.
"""

from __future__ import annotations

from typing import ClassVar


class ThreadwireError(Exception):
    """The root. ``str(error)`` is a sentence that may be shown to whoever caused it."""

    code: ClassVar[str] = "internal"
    #: Whether the same command may work later, unchanged.
    retry: ClassVar[bool] = False
    #: The status where the failure is answered over HTTP.
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds


# --- the operator's ------------------------------------------------------------------------------


class StartupError(ThreadwireError):
    """The server cannot start; the message names the thing and what to do about it."""


class ConfigError(StartupError):
    """A setting is unknown, of the wrong type or impossible."""


# --- the client's --------------------------------------------------------------------------------


class CommandError(ThreadwireError):
    """A command that cannot be done as it came."""

    code = "invalid_argument"
    http_status = 400


class BadFrame(CommandError):
    """Not a JSON object, or not text."""

    code = "bad_frame"


class UnknownCommand(CommandError):
    """A ``type`` this protocol does not have."""

    code = "unknown_command"


class InvalidArgument(CommandError):
    """A field is missing, unknown or not what it should be; ``field`` is its path, as ``content.0.type``."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class TooLarge(CommandError):
    """A part of a message is over its limit."""

    code = "too_large"
    http_status = 413


class Busy(CommandError):
    """A run is active on the thread."""

    code = "busy"
    retry = True
    http_status = 409


class QueueFull(CommandError):
    """As many turns wait on the thread as ``runs.max_queued`` allows."""

    code = "queue_full"
    retry = True
    http_status = 429


class NoActiveRun(CommandError):
    """Nothing runs, or the named run has already ended."""

    code = "no_active_run"
    http_status = 409


class NoSuchRun(CommandError):
    """The thread has never seen that run."""

    code = "no_such_run"
    http_status = 404


class NoSuchMessage(CommandError):
    """The thread has no message of that id."""

    code = "no_such_message"
    http_status = 404


class NoSuchInterrupt(CommandError):
    """The thread does not wait for an answer to that id."""

    code = "no_such_interrupt"
    http_status = 404


class NoSuchCheckpoint(CommandError):
    """The thread has no checkpoint of that id."""

    code = "no_such_checkpoint"
    http_status = 404


class Unauthorized(CommandError):
    """No credential, or a bad or expired one."""

    code = "unauthorized"
    http_status = 401


class Forbidden(CommandError):
    """Known, but not allowed."""

    code = "forbidden"
    http_status = 403


class RateLimited(CommandError):
    """Too many in too short a time; ``retry_after_seconds`` says when to come back."""

    code = "rate_limited"
    retry = True
    http_status = 429


class QuotaExceeded(CommandError):
    """The user's allowance is used up."""

    code = "quota_exceeded"
    retry = True
    http_status = 429


# --- the model's or the graph's ------------------------------------------------------------------


class RunError(ThreadwireError):
    """What ended a run that was not cancelled."""

    code = "graph_error"
    http_status = 502


class ModelError(RunError):
    """The model's provider failed, or could not be reached."""

    code = "model_error"
    retry = True


class ModelRateLimited(RunError):
    """The model's provider says: too many requests."""

    code = "model_rate_limited"
    retry = True


class ModelAuth(RunError):
    """The model's provider does not accept the server's key."""

    code = "model_auth"


class ContextTooLong(RunError):
    """The conversation is longer than the model takes."""

    code = "context_too_long"


class GraphError(RunError):
    """A node of the served graph raised."""

    code = "graph_error"


class RecursionLimit(RunError):
    """The graph took more steps than ``runs.recursion_limit``."""

    code = "recursion_limit"


class RunTimeout(RunError):
    """The run took longer than ``runs.timeout_seconds``."""

    code = "timeout"
    retry = True


# --- ours ----------------------------------------------------------------------------------------


class ServerError(ThreadwireError):
    """A fault on this side of the wire."""


class StorageError(ServerError):
    """The database did not take it: full, read-only, or gone."""

    code = "storage_error"
    retry = True
    http_status = 503


class AuthUnavailable(ServerError):
    """Who somebody is cannot be known at the moment: what says so is away."""

    retry = True
    http_status = 503


class ShuttingDown(ServerError):
    """The server is draining and starts nothing new."""

    code = "shutting_down"
    retry = True
    http_status = 503


class InternalError(ServerError):
    """A bug of ours; the server's log has its trace."""

    code = "internal"


class Gap(ThreadwireError):
    """The log has been trimmed past a cursor: frames are lost to this reader. Told as a ``gap`` frame."""

    def __init__(self, requested: int, earliest: int) -> None:
        super().__init__(f"frames {requested} to {earliest - 1} are gone")
        self.requested = requested
        self.earliest = earliest


def every_error() -> list[type[ThreadwireError]]:
    """All classes of the tree that can be told on the wire, each once, in the order they are written."""
    found: list[type[ThreadwireError]] = []

    def walk(cls: type[ThreadwireError]) -> None:
        for sub in cls.__subclasses__():
            if sub.__module__ == __name__ and not issubclass(sub, (StartupError, Gap)):
                if "code" in sub.__dict__ or issubclass(sub, InvalidArgument):
                    found.append(sub)
                walk(sub)

    walk(ThreadwireError)
    return found
