"""A provider's stream as chunks: the openai SDK's ``AsyncStream``, which ends and fails as ever, decoded by orjson.

The SDK builds a tree of pydantic objects for each token, and LangChain takes it apart again. Here a chunk is a dict,
unless the SDK's type makes something else of it than LangChain would see in the dict.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
from openai import AsyncStream
from openai.types.chat import ChatCompletionChunk

from threadwire.models.transport import body_of


class LeanStream(AsyncStream[object]):
    """What ``client.post(..., stream=True, stream_cls=LeanStream)`` gives: dicts and ``ChatCompletionChunk``s."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._decoder: Any = _Decoder(self._decoder, body_of(self.response))
        self._events: AsyncIterator[Any] = super()._iter_events()
        # An event that is left to the SDK.
        self._left: _Event | None = None

    def __aiter__(self) -> AsyncIterator[object]:
        return self._iterator

    async def __stream__(self) -> AsyncIterator[object]:
        """The chunks as long as they are plain, then what the SDK makes of the rest: the end, or an error.

        What it asks of each, whether it be a mapping, takes longer than to read it.
        """
        try:
            async for event in self._events:
                if (chunk := event.plain()) is None:
                    self._left = event
                    break
                yield chunk
            async for chunk in super().__stream__():
                yield chunk
        finally:
            await self.response.aclose()

    async def _iter_events(self) -> AsyncIterator[Any]:
        if self._left is not None:
            yield self._left
        async for event in self._events:
            yield event


class _Decoder:
    """The SDK's ``SSEBytesDecoder``: events that are ``data`` alone; from the first other field on, its own decoder."""

    def __init__(self, stock: Any, body: AsyncIterator[bytes] | None) -> None:
        self._stock = stock
        self._body = body

    async def aiter_bytes(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[_Event]:
        """The events; one that no blank line ends is none."""
        data: list[str] = []
        only_data = True
        lines = _Lines()
        # Past httpx2, whose four generators around each piece cost 15 µs.
        async for piece in self._body or pieces:
            for line in map(bytes.decode, lines.feed(piece)):
                if not only_data:
                    if event := self._stock.decode(line):
                        yield _Event(event.data, event.event)
                elif line.startswith("data:"):
                    data.append(line[6:] if line.startswith("data: ") else line[5:])
                elif not line:
                    if data:
                        yield _Event("\n".join(data))
                        data = []
                elif not line.startswith(":"):
                    only_data = False
                    for value in data:
                        self._stock.decode(f"data: {value}")
                    self._stock.decode(line)


class _Lines:
    """Lines out of bytes; one ends with LF, CRLF or CR."""

    def __init__(self) -> None:
        #: The beginning of a line, in pieces.
        self._rest: list[bytes] = []
        self._after_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece."""
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]  # the second half of a CRLF
        self._after_cr = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = piece.split(b"\n")
        if self._rest:
            self._rest.append(lines[0])
            if len(lines) == 1:
                return []
            lines[0] = b"".join(self._rest)
        rest = lines.pop()
        self._rest = [rest] if rest else []
        return lines


class _Event:
    """As much of the SDK's ``ServerSentEvent`` as its stream asks for."""

    __slots__ = ("data", "event")

    def __init__(self, data: str, event: str | None = None) -> None:
        self.data = data
        self.event = event

    def plain(self) -> dict[str, Any] | None:
        """The chunk, where nothing has to be done about it."""
        if self.event is not None:
            return None
        try:
            chunk = orjson.loads(self.data)
        except orjson.JSONDecodeError:
            return None
        return chunk if type(chunk) is dict and not chunk.get("error") and _is_plain(chunk) else None

    def json(self) -> Any:
        """The chunk."""
        try:
            chunk = orjson.loads(self.data)
        except orjson.JSONDecodeError:
            chunk = json.loads(self.data)  # takes NaN and lone surrogates, or says what is wrong as the SDK does
        return chunk if _is_plain(chunk) else ChatCompletionChunk.construct(**chunk)


def _is_plain(chunk: Any) -> bool:
    """Whether LangChain makes the same of it as of the SDK's type, which fills in what is missing.

    An error, or what is no chunk at all, is left to whom it meets.
    """
    if type(chunk) is not dict or chunk.get("error"):
        return True
    if not (choices := chunk.get("choices")):
        return True
    choice = choices[0]
    if type(choice) is not dict or choice.get("logprobs"):
        return False
    delta = choice.get("delta")
    if type(delta) is not dict or delta.get("function_call"):
        return False
    calls = delta.get("tool_calls")
    return not calls or all("index" in call and type(call.get("function")) is dict for call in calls)
