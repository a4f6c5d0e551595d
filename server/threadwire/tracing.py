"""Where a trace of what a server does would begin and end; ``otel.py`` makes one, ``NoTraces`` none.

A run is traced in the context it was asked for, which has its connection's span. Knows no library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class RunTrace(Protocol):
    """One run."""

    @property
    def callbacks(self) -> Sequence[Any]:
        """LangChain's handlers that trace what its graph calls."""
        ...

    def ended(self, status: str, reason: str | None, error: str | None, usage: dict[str, int] | None) -> None:
        """How it did; ``error`` is a code."""
        ...


class Traces(Protocol):
    """A server's."""

    def connection(
        self, request: Any, handler: Callable[[Any], Awaitable[T]], about: dict[str, str | None]
    ) -> Awaitable[T]:
        """Handle a request that takes runs; ``about``: its ``route``, ``connection_id`` and ``user``."""
        ...

    def run(self, run_id: str, **about: str | None) -> AbstractContextManager[RunTrace]:
        """A run that is driven inside."""
        ...


class _NoTrace:
    callbacks: Sequence[Any] = ()

    def ended(self, status: str, reason: str | None, error: str | None, usage: dict[str, int] | None) -> None:
        pass


class NoTraces:
    """Nobody wants to see any."""

    def connection(
        self,
        request: Any,
        handler: Callable[[Any], Awaitable[T]],
        about: dict[str, str | None],  # noqa: ARG002
    ) -> Awaitable[T]:
        """Handle it."""
        return handler(request)

    def run(self, run_id: str, **about: str | None) -> AbstractContextManager[RunTrace]:  # noqa: ARG002
        """Nothing."""
        return nullcontext(_NoTrace())
