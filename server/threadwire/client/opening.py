"""``connect``: from a URL to a chat."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, Unpack

import aiohttp
from yarl import URL

from threadwire.client.chat import Chat
from threadwire.client.link import Link
from threadwire.client.options import Filters, Token
from threadwire.errors import InvalidArgument
from threadwire.protocol import SUBPROTOCOL, check_thread_id, validate_command

#: How long leaving waits for the server to say goodbye as well.
CLOSE_SECONDS = 2.0
#: The largest frame taken: a history of long messages is one frame.
MAX_FRAME_BYTES = 64 * 1024 * 1024


@asynccontextmanager
async def connect(
    url: str,
    *,
    thread_id: str | None = None,
    token: Token | None = None,
    history: int | None = None,
    on_disconnect: Literal["cancel", "continue"] | None = None,
    reconnect: bool = True,
    max_reconnects: int | None = None,
    open_timeout: float = 10.0,
    session: aiohttp.ClientSession | None = None,
    **filters: Unpack[Filters],
) -> AsyncIterator[Chat]:
    """Open a chat, and close it (1000: the server takes that as "I am done") on leaving.

    The first connection is tried once. One that is lost later is made again with what was not acknowledged,
    and goes on where it was, unless the close code says that there is no use.

    Args:
        url: Where the server is: ``http://host:8000`` or the whole ``ws://host:8000/ws``; its query is kept.
        thread_id: The thread to go on with; absent, the server makes a new one.
        token: A credential, sent as ``Authorization: Bearer``; or a function, async or not, that gives one. It is
            asked for each connection, and when the server says that the one in use is about to end, so that the
            connection goes on with a fresh one.
        history: How many of the thread's last messages to read first, into ``chat.first_history``.
        on_disconnect: What happens to this chat's runs when nobody listens to the thread any more; where it is
            None, the server's configuration decides.
        reconnect: Whether to come back after a lost connection.
        max_reconnects: How many attempts in a row may fail before the chat gives up; None: it never does.
        open_timeout: Seconds for a connection to be made, and for its first frame.
        session: An aiohttp session to use (proxies, cookies, TLS); it stays open. Absent, a new one is made.
        filters: ``include_types`` and the like, as ``Chat.subscribe`` takes them.

    Raises:
        InvalidArgument: the URL, ``thread_id``, ``history``, ``on_disconnect`` or a filter is not what it should be.
        Disconnected: the first connection failed or was refused.
    """
    if thread_id is not None:
        check_thread_id(thread_id)
    if history is not None and history < 1:
        raise InvalidArgument("history", f"expected a whole number from 1, got {history}")
    if on_disconnect not in (None, "cancel", "continue"):
        raise InvalidArgument("on_disconnect", f"expected cancel or continue, got {on_disconnect!r}")
    if unknown := sorted(set(filters) - set(Filters.__annotations__)):
        raise TypeError(f"connect() got an unexpected keyword argument {unknown[0]!r}")
    validate_command({"type": "subscribe", **filters})
    target = _socket_url(url)
    fixed = {"thread_id": thread_id, "on_disconnect": on_disconnect}
    target = target.update_query({name: value for name, value in fixed.items() if value is not None})
    own = aiohttp.ClientSession() if session is None else None
    http = session or own
    assert http is not None  # noqa: S101 -- one of the two

    def make_link(chat: Chat) -> Link:
        async def open_socket() -> aiohttp.ClientWebSocketResponse:
            try:
                credential = await _token(token)
            except Exception as error:
                # Whoever gives it may be away as the server may be: it is tried again.
                raise aiohttp.ClientConnectionError(f"no token could be had: {error!r}") from error
            headers = {"Authorization": f"Bearer {credential}"} if credential is not None else {}
            return await http.ws_connect(
                target.update_query(chat.query()),
                protocols=(SUBPROTOCOL,),
                headers=headers,
                autoclose=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                max_msg_size=MAX_FRAME_BYTES,
            )

        limit = max_reconnects if reconnect else 0
        return Link(open_socket, chat, max_reconnects=limit, open_timeout=open_timeout)

    try:
        renew = (lambda: _token(token)) if callable(token) else None
        chat = Chat(history=history, filters=filters, patient=reconnect, make_link=make_link, renew=renew)
        try:
            await chat.open()
            yield chat
        finally:
            await chat.close()
    finally:
        if own is not None:
            await own.close()


async def _token(token: Token | None) -> str | None:
    found = token() if callable(token) else token
    return await found if inspect.isawaitable(found) else found


def _socket_url(url: str) -> URL:
    parsed = URL(url)
    if parsed.scheme not in ("http", "https", "ws", "wss") or not parsed.host:
        raise InvalidArgument("url", f"expected http://HOST:PORT or ws://HOST:PORT/ws, got {url!r}")
    return parsed.with_path("/ws", keep_query=True) if parsed.path in ("", "/") else parsed
