"""The server's own log, on stderr: lines for people on a terminal, one JSON object a line otherwise.

Ids, names, durations and counts are logged; the text of a conversation never is, and so tracebacks come
without the values of variables. What other libraries log takes the same way, from WARNING on.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog
from structlog.types import Processor

Level = Literal["debug", "info", "warning", "error"]

_HANDLER = "threadwire"


def configure(json: bool | None = None, level: Level = "info") -> None:
    """Set up logging for the process; a second call replaces the first.

    ``json``: None is JSON unless stderr is a terminal. ``level`` is threadwire's own.
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
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
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


def _renderers(*, json: bool) -> list[Processor]:
    if json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The default for people prints local variables, texts among them, where rich is installed.
    plain = structlog.dev.plain_traceback
    colors = sys.stderr.isatty()
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, timestamp_key="time")]
