"""One WebSocket of a load run: picows, whose frames cost a fifth of aiohttp's (docs/scale.md has the figures).

Knows the reader it feeds and nothing of what the session does.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import orjson
from picows import WSFrame, WSHandshakeError, WSListener, WSMsgType, WSTransport, ws_connect
from picows.picows import WSCloseCode

from threadwire.client.backoff import ABNORMAL
from threadwire.errors import StartupError
from threadwire.load.options import Options
from threadwire.load.reader import Reader
from threadwire.load.recorder import Recorder
from threadwire.protocol import SUBPROTOCOL

#: How long an upgrade may take; a server under load is slow, and that is what is measured.
OPEN_SECONDS = 60.0
#: Linux hands out about 28,000 ports to one pair of addresses.
PORTS_PER_ADDRESS = 25_000


_TEXT, _CLOSE, _CONTINUATION = WSMsgType.TEXT, WSMsgType.CLOSE, WSMsgType.CONTINUATION


class Refused(Exception):  # noqa: N818 -- what the server did
    """There is no connection; ``status`` is the HTTP status of a refused upgrade, or None."""

    def __init__(self, code: str, status: int | None) -> None:
        super().__init__(code)
        self.code = code
        self.status = status


class Connection(WSListener):
    """Feeds one reader from its socket.

    Attributes:
        close_code: With which the server closed; ``ABNORMAL`` where it did not say.
        lost: Done once the connection is gone.
    """

    def __init__(self, reader: Reader, recorder: Recorder) -> None:
        self.close_code = ABNORMAL
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._recorder = recorder
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Called by picows."""
        self._transport = transport
        self._recorder.connected()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Called by picows, with a frame that is gone afterwards."""
        kind = frame.msg_type
        if kind is _TEXT and frame.fin:
            data: Any = frame.get_payload_as_memoryview()
        elif kind is _TEXT or kind is _CONTINUATION:
            self._parts.append(frame.get_payload_as_bytes())
            if not frame.fin:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        else:
            if kind is _CLOSE:
                self._on_close(transport, frame.get_payload_as_bytes())
            return
        recorder = self._recorder
        recorder.frames += 1
        recorder.bytes += len(data)
        try:
            self._reader.take(orjson.loads(data), time.monotonic())
        except (ValueError, KeyError, TypeError, AttributeError):
            recorder.error("malformed_frame")

    def on_ws_disconnected(self, _: WSTransport) -> None:
        """Called by picows."""
        self._recorder.connections -= 1
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def _on_close(self, transport: WSTransport, payload: bytes) -> None:
        """Take the server's code, and answer with the same: 1000 would say that this client asked for the end."""
        self.close_code = int.from_bytes(payload[:2], "big") if len(payload) > 1 else ABNORMAL
        transport.send(WSMsgType.CLOSE, payload[:2])
        transport.disconnect()

    def send(self, command: dict[str, Any]) -> None:
        """Send a command; nothing happens where the connection is gone."""
        if self._transport is not None:
            self._transport.send(_TEXT, orjson.dumps(command))

    def close(self) -> None:
        """End it as a client does that is done."""
        if self._transport is not None:
            self._transport.send_close(WSCloseCode.OK)
            self._transport.disconnect()

    def cut(self) -> None:
        """End it as a dead network does: no close frame."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def pause(self) -> None:
        """Read no more: what comes stays in the kernel's buffers, then in the server's."""
        if self._transport is not None:
            self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.underlying_transport.resume_reading()


class Opener:
    """Opens connections, each from its own place and with its own credential."""

    def __init__(self, options: Options, recorder: Recorder) -> None:
        self._options = options
        self._recorder = recorder
        self._loopback = "://127." in options.url or "://localhost" in options.url
        self._ssl = _tls(options) if options.url.startswith("wss:") else None

    async def open(self, reader: Reader, number: int, query: dict[str, str]) -> Connection:
        """Connect; raises ``Refused``."""
        options = self._options
        headers = [("Sec-WebSocket-Protocol", SUBPROTOCOL)]
        if options.credentials:
            headers.append(("Authorization", f"Bearer {options.credentials[number % len(options.credentials)]}"))
        joint = "&" if "?" in options.url else "?"
        url = f"{options.url}{joint}{urlencode(query)}" if query else options.url
        make: Callable[[], Connection] = lambda: Connection(reader, self._recorder)  # noqa: E731
        source = source_address(number, options.sources, loopback=self._loopback)
        place: dict[str, Any] = {} if source is None else {"local_addr": (source, 0)}
        try:
            _, connection = await ws_connect(
                make,
                url,
                ssl_context=self._ssl,
                extra_headers=headers,
                websocket_handshake_timeout=OPEN_SECONDS,
                **place,
            )
        except WSHandshakeError as error:
            status = int(error.response.status) if error.response is not None else None
            refused = status is not None and status is not HTTPStatus.SWITCHING_PROTOCOLS
            raise Refused(f"http_{status}" if refused else "no_upgrade", status) from None
        except TimeoutError:
            raise Refused("connect_timeout", None) from None
        except OSError as error:
            raise Refused(_name(error), None) from None
        assert isinstance(connection, Connection)  # noqa: S101 -- made by ``make``
        return connection


def source_address(number: int, sources: tuple[str, ...], *, loopback: bool) -> str | None:
    """From which address session ``number`` connects; None is the system's choice.

    Without ``sources``, sessions beyond the ports of one loopback address take 127.0.0.2 and so on.
    """
    if sources:
        return sources[number % len(sources)]
    if loopback and number >= PORTS_PER_ADDRESS:
        return f"127.0.0.{1 + number // PORTS_PER_ADDRESS % 254}"
    return None


def _tls(options: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        raise StartupError(f"--ca {options.ca_file}: {error}") from error
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _name(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection_refused"
    if isinstance(error, ssl.SSLError):
        return "tls_failed"
    if isinstance(error, ConnectionError):
        return "connection_reset"
    return f"os_error_{error.errno}"
