"""The server's own log, on stderr: lines for people on a terminal, one JSON object a line otherwise.

Ids, names, durations and counts are logged. The text of a conversation is only where ``logs.include_content`` says so:
tracebacks come without the values of variables, and those of other people's code without what the exception says.
Secrets are masked in every line. What other libraries log takes the same way, from WARNING on.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Any, Literal

import structlog
from structlog.types import EventDict, Processor

from threadwire.masking import masker

Level = Literal["debug", "info", "warning", "error"]

_HANDLER = "threadwire"


class _Masking(structlog.stdlib.ProcessorFormatter):
    """The last thing that happens to a line, so that nothing comes around it."""

    def __init__(self, mask: Callable[[str], str], **options: Any) -> None:
        super().__init__(**options)
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        return self._mask(super().format(record))


def configure(
    json: bool | None = None,
    level: Level = "info",
    *,
    secrets: Collection[str] = (),
    include_content: bool = False,
) -> None:
    """Set up logging for the process; a second call replaces the first.

    ``json``: None is JSON unless stderr is a terminal. ``level`` is threadwire's own. ``secrets``, and what looks like
    some, are masked in every line. ``include_content``: what people and models say is logged too.
    """
    if json is None:
        json = not sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _with_content if include_content else _without_content,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_HANDLER)
    handler.setFormatter(
        _Masking(
            masker(secrets),
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(json=json)],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(old for old in root.handlers if old.get_name() != _HANDLER), handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("threadwire").setLevel(level.upper())


def get_logger(name: str) -> Any:
    """A structlog logger for a module: ``get_logger(__name__).info("run finished", run_id=run_id)``."""
    return structlog.stdlib.get_logger(name)


def about(**known: Any) -> None:
    """Have these in every line that is logged in this context (of a task) from now on, and in what is started there."""
    structlog.contextvars.bind_contextvars(**known)


# --- what people say -----------------------------------------------------------------------------

#: Keys of entries that hold it; ``failure`` is an exception of other people's code, whose text may quote it.
_CONTENT = ("content", "answer")
_LEFT_OUT = "(its text is left out; logs.include_content shows it)"


def _with_content(_logger: Any, _name: str, entry: EventDict) -> EventDict:
    if (failure := entry.pop("failure", None)) is not None:
        entry["exc_info"] = failure
    return entry


def _without_content(_logger: Any, _name: str, entry: EventDict) -> EventDict:
    for key in _CONTENT:
        entry.pop(key, None)
    if (failure := entry.pop("failure", None)) is not None:
        entry["exception"] = _without_text(failure)
    return entry


def _without_text(error: BaseException) -> str:
    """A traceback that says where and what, and not what the exceptions themselves say."""
    lines: list[str] = []
    seen: set[int] = set()

    def tell(error: BaseException) -> None:
        seen.add(id(error))
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is not None and id(before) not in seen:
            tell(before)
            lines.append("which led to:\n")
        status = getattr(error, "status_code", None)
        named = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        lines.extend(traceback.format_tb(error.__traceback__))
        lines.append(f"{named}{f' (status {status})' if isinstance(status, int) else ''}: {_LEFT_OUT}\n")
        for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            tell(part)

    tell(error)
    return "".join(lines).rstrip()


def _renderers(*, json: bool) -> list[Processor]:
    if json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The default for people prints local variables, texts among them, where rich is installed.
    plain = structlog.dev.plain_traceback
    colors = sys.stderr.isatty()
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, timestamp_key="time")]
