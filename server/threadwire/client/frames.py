"""All frames of a chat, for one reader."""

from __future__ import annotations

from collections.abc import AsyncIterator

from threadwire.client.buffer import FrameBuffer
from threadwire.protocol import Frame


class Frames:
    """The frames that come to a chat, as an async iterator; made by ``Chat.frames``."""

    def __init__(self, buffer: FrameBuffer) -> None:
        self.buffer = buffer

    def __aiter__(self) -> AsyncIterator[Frame]:
        return self

    async def __anext__(self) -> Frame:
        frame = await self.buffer.get()
        if frame is None:
            raise StopAsyncIteration
        return frame
