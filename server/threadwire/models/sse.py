"""A provider's stream as chunks: the openai SDK's ``AsyncStream``, which ends and fails as ever, decoded by orjson.

The SDK builds a tree of pydantic objects for each token, and LangChain takes it apart again. Here a chunk is a dict,
unless the SDK's type makes something else of it than LangChain would see in the dict. Of a call that is told in place
(``telling.py``) its text is told here, and given on in one chunk once something else comes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
from openai import AsyncStream
from openai.types.chat import ChatCompletionChunk

from threadwire.models.telling import Telling
from threadwire.models.transport import Body, body_of


class LeanStream(AsyncStream[object]):
    """What ``client.post(..., stream=True, stream_cls=LeanStream)`` gives: dicts and ``ChatCompletionChunk``s."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._decoder: Any = _Decoder(self._decoder, body_of(self.response))
        self._events: AsyncIterator[Any] = super()._iter_events()
        # An event that is left to the SDK.
        self._left: _Event | None = None

    def tell(self, telling: Telling) -> None:
        """Tell what is text as it is read; before anything is."""
        self._decoder.telling = telling

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

    def __init__(self, stock: Any, body: Body | None) -> None:
        self._stock = stock
        self._body = body
        self.telling: Telling | None = None
        self._lines = _Lines()
        self._data: list[str] = []
        self._only_data = True

    async def aiter_bytes(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[_Event]:
        """The events; one that no blank line ends is none.

        Text that is told is one event, which comes when something else does, or the end.
        """
        said = _Said(self.telling) if self.telling is not None else None
        # Past httpx2, whose four generators around each piece cost 15 µs.
        async for piece in self._body or pieces:
            at_once = self._body is None or not self._body.hurried
            try:
                for event in self._ended(piece):
                    if said is not None:
                        chunk = event.plain()
                        if type(chunk) is Text:
                            said.add(chunk)
                            if at_once:
                                said.tell()
                            continue
                        said.tell()
                        if (whole := said.taken()) is not None:
                            yield whole
                        if not _is_the_assistants(chunk):
                            # What follows is of another kind, which LangChain knows.
                            said = None
                    yield event
            finally:
                # Also where what follows in the piece is broken.
                if said is not None:
                    said.tell()
        if said is not None and (whole := said.taken()) is not None:
            yield whole

    def _ended(self, piece: bytes) -> Iterator[_Event]:
        """The events that end in this piece."""
        for line in map(bytes.decode, self._lines.feed(piece)):
            if not self._only_data:
                if event := self._stock.decode(line):
                    yield _Event(event.data, event.event)
            elif line.startswith("data:"):
                self._data.append(line[6:] if line.startswith("data: ") else line[5:])
            elif not line:
                if self._data:
                    yield _Event("\n".join(self._data))
                    self._data = []
            elif not line.startswith(":"):
                self._only_data = False
                for value in self._data:
                    self._stock.decode(f"data: {value}")
                self._stock.decode(line)


class _Said:
    """Text that is told, since something else came."""

    __slots__ = ("_like", "_telling", "_texts", "_told")

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        # The first of it; None: there is none.
        self._like: Text | None = None
        self._texts: list[str] = []
        # How many of them have been told.
        self._told = 0

    def add(self, chunk: Text) -> None:
        """One more; but for the first only its text is kept."""
        if self._like is None:
            self._like = chunk
        self._texts.append(chunk.text)

    def tell(self) -> None:
        """Tell what has not been told, in one."""
        if self._told < len(self._texts):
            text = "".join(self._texts[self._told :])
            self._told = len(self._texts)
            self._telling.tell(text)

    def taken(self) -> _Event | None:
        """All of it, told, as one, for the rest like the first; None: there is none."""
        if (like := self._like) is None:
            return None
        (choice,) = like["choices"]
        text = "".join(self._texts)
        choices = [choice | {"delta": choice["delta"] | {"content": text}}]
        joined = Text(like | {"choices": choices}, text, self._telling)
        self._like, self._texts, self._told = None, [], 0
        return _Event("", plain=joined)


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


class Text(dict[str, Any]):
    """A chunk that says no more than a text (``text``), which has been told already if there is ``telling``."""

    __slots__ = ("telling", "text")

    def __init__(self, chunk: dict[str, Any], text: str, telling: Telling | None = None) -> None:
        super().__init__(chunk)
        self.text = text
        self.telling = telling


class _Event:
    """As much of the SDK's ``ServerSentEvent`` as its stream asks for."""

    __slots__ = ("_plain", "data", "event")

    def __init__(self, data: str, event: str | None = None, plain: Text | None = None) -> None:
        self.data = data
        self.event = event
        self._plain: dict[str, Any] | None = plain

    def plain(self) -> dict[str, Any] | None:
        """The chunk, where nothing has to be done about it."""
        if self._plain is None and self.event is None:
            try:
                chunk = orjson.loads(self.data)
            except orjson.JSONDecodeError:
                return None
            if type(chunk) is dict and not chunk.get("error"):
                if (text := _text_of(chunk)) is not None:
                    self._plain = Text(chunk, text)
                elif _is_plain(chunk):
                    self._plain = chunk
        return self._plain

    def json(self) -> Any:
        """The chunk."""
        if self._plain is not None:
            return self._plain
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


def _is_the_assistants(chunk: dict[str, Any] | None) -> bool:
    """Whether LangChain makes of what follows a chunk what it would have without it."""
    if chunk is None or chunk.get("type") or chunk.get("chunk"):
        return False
    choices = chunk.get("choices")
    delta = choices[0].get("delta") if choices and type(choices[0]) is dict else None
    return type(delta) is not dict or delta.get("role") in (None, "assistant")


def _text_of(chunk: dict[str, Any]) -> str | None:
    """The text, of a plain chunk that brings nothing else."""
    choices = chunk.get("choices")
    if not choices or len(choices) > 1 or chunk.get("usage") or chunk.get("type"):
        return None
    choice, text = choices[0], None
    if type(choice) is not dict or choice.get("finish_reason") or choice.get("logprobs"):
        return None
    if type(delta := choice.get("delta")) is not dict:
        return None
    for name, value in delta.items():
        if name == "content":
            text = value
        elif value is not None and (name != "role" or value != "assistant"):
            return None
    return text if type(text) is str else None
