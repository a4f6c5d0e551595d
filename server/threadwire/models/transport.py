"""aiohttp's HTTP under the openai SDK's client, which stays httpx2 and keeps its retries, timeouts and redirects.

A read that brings one token costs 26 µs of CPU with aiohttp and 98 with httpx2's own transport. The SDK has such a
transport too (``DefaultAioHttpClient``), which takes a refused connection for a timeout.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any, Self
from urllib.request import getproxies

import aiohttp
import httpx2
import openai
import yarl

from threadwire.models.busy import Busy
from threadwire.models.looks import Looks

#: As the SDK's own client has it (``openai._constants.DEFAULT_CONNECTION_LIMITS``).
MAX_CONNECTIONS = 1000
KEEPALIVE_SECONDS = 5.0
#: What is read at a pace.
EVENTS = "text/event-stream"
_BODY = "threadwire.body"
#: What aiohttp raises as httpx2 has it, the first that fits.
_ERRORS: tuple[tuple[type[Exception], type[httpx2.RequestError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
    (TimeoutError, httpx2.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx2.ConnectError),
    (aiohttp.ClientOSError, httpx2.ReadError),
    (aiohttp.ClientError, httpx2.RemoteProtocolError),
    (OSError, httpx2.NetworkError),
    (RuntimeError, httpx2.RemoteProtocolError),  # reading from a connection that has been closed on what was no HTTP
)
_RAISED = (aiohttp.ClientError, OSError, RuntimeError)  # a TimeoutError is an OSError


def open_http_client(*, use_proxies: bool = True, **options: Any) -> httpx2.AsyncClient:
    """An HTTP client for the SDK, to be closed by the caller; ``options`` are httpx2's.

    Where the environment names a proxy it is the SDK's own, which knows more kinds of them than aiohttp.
    """
    if use_proxies and getproxies().keys() & {"http", "https", "all"}:
        return openai.DefaultAsyncHttpxClient(**options)
    return openai.DefaultAsyncHttpxClient(transport=AiohttpTransport(), **options)


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends what httpx2 has prepared; a body is taken whole. Belongs to the event loop of its first request."""

    def __init__(self, busy: Busy | None = None) -> None:
        self._ssl = httpx2.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None
        self._busy = busy or Busy()
        #: What each connection has read last.
        self._reading: dict[Any, aiohttp.StreamReader] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response as soon as its headers are there.

        Raises:
            httpx2.TransportError: it cannot be had.
        """
        timeout, body = request.extensions["timeout"], await request.aread()
        try:
            response = await self._opened().request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    connect=timeout["pool"], sock_connect=timeout["connect"], sock_read=timeout["read"]
                ),
            )
        except _RAISED as error:
            raise _as_httpx(error) from error
        self._watch(response)
        said = Body(response, self._looks(response))
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=said,
            extensions={
                "http_version": b"HTTP/1.1",
                "reason_phrase": (response.reason or "").encode(),
                _BODY: said,
            },
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _looks(self, response: aiohttp.ClientResponse) -> Looks | None:
        """Where it is events, and not all of them are here."""
        if response.content_type != EVENTS or response.connection is None or response.connection.transport is None:
            return None
        return Looks(self._busy, response.connection.transport)

    def _watch(self, response: aiohttp.ClientResponse) -> None:
        """See to it that a connection's end is one for who reads from it.

        aiohttp's parser in C (3.14) closes a connection on what is no chunk, and leaves the reader waiting for ever.
        """
        if response.connection is None or (protocol := response.connection.protocol) is None:
            return  # the body is here
        if protocol not in self._reading and protocol.closed is not None:
            protocol.closed.add_done_callback(lambda closed: self._lost(protocol, closed))
        self._reading[protocol] = response.content
        if protocol.closed is None:
            self._lost(protocol)

    def _lost(self, protocol: Any, closed: asyncio.Future[None] | None = None) -> None:
        content = self._reading.pop(protocol)
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("The connection ended before the body did."))
        if closed is not None:
            closed.exception()  # it has been seen

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS, ssl=self._ssl
                ),
                cookie_jar=aiohttp.DummyCookieJar(),  # httpx2 keeps them
                auto_decompress=False,  # httpx2 does it
            )
            # httpx2's own says nothing where nobody closes it, as the model of somebody's graph; aiohttp's would.
            weakref.finalize(self, _leave, self._session)
        return self._session


def _leave(session: aiohttp.ClientSession) -> None:
    """Close what nobody has closed."""
    if session.connector is not None:
        session.connector._close()  # noqa: SLF001 -- ``close`` needs a loop, which may have ended


def body_of(response: Any) -> Body | None:
    """The body of a response as aiohttp reads it, if it came this way and is not compressed."""
    return None if response.headers.get("content-encoding") else response.extensions.get(_BODY)


class Body(httpx2.AsyncByteStream):
    """A response's body as it comes, still compressed; iterating again goes on where it was left."""

    def __init__(self, response: aiohttp.ClientResponse, looks: Looks | None) -> None:
        self._response = response
        self._looks = looks
        self._content = response.content
        self._read = response.content.readany
        #: There is no time to spare for what has been read last.
        self.hurried = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._read()
        except _RAISED as error:
            raise _as_httpx(error) from error
        if not piece:
            raise StopAsyncIteration
        if self._looks is not None:
            if self._content.is_eof():
                self._looks.leave()
            else:
                self.hurried = self._looks.took(piece)
        return piece

    async def aclose(self) -> None:
        """Give the connection back, or close it if the body has not ended."""
        if self._looks is not None:
            self._looks.leave()
        self._response.release()


def _as_httpx(error: Exception) -> Exception:
    return next((told(str(error)) for kind, told in _ERRORS if isinstance(error, kind)), error)
