"""The keyword arguments that several methods share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias, TypedDict

from threadwire.protocol import MultitaskStrategy

#: A credential, or what gives one: asked for each connection, and before the one in use ends.
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]


class Filters(TypedDict, total=False):
    """Which events become frames: LangChain's six filters, and ``raw`` for the events themselves as well."""

    include_types: list[str]
    include_names: list[str]
    include_tags: list[str]
    exclude_types: list[str]
    exclude_names: list[str]
    exclude_tags: list[str]
    raw: bool


class SendOptions(TypedDict, total=False):
    """What a ``send`` may say besides its content. Absent, ``run_id`` and ``message_id`` are minted."""

    message_id: str
    run_id: str
    multitask_strategy: MultitaskStrategy
    stream: Literal["events", "messages"]
    context: dict[str, Any]
    checkpoint_id: str


class ConnectOptions(Filters, total=False):
    """What ``connect_sync`` takes: the options of ``connect``, but for a session, which has its own loop."""

    thread_id: str | None
    token: Token | None
    history: int | None
    on_disconnect: Literal["cancel", "continue"] | None
    reconnect: bool
    max_reconnects: int | None
    open_timeout: float


def filter_query(filters: Filters) -> dict[str, str]:
    """The filters as parameters of a connection, in force from its first frame.

    A name with a comma cannot be said there (LangChain makes some: ``RunnableParallel<a,b>``): its list is
    left out.
    """
    query = {
        field: ",".join(names)
        for field, names in filters.items()
        if isinstance(names, list) and names and not any("," in name for name in names)
    }
    if filters.get("raw"):
        query["raw"] = "true"
    return query
