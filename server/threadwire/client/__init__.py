"""The Python client: a conversation with a threadwire server.

::

    async with threadwire.client.connect("http://127.0.0.1:8000") as chat:
        async for frame in chat.send("hi"):
            if frame.type == "token":
                print(frame.content, end="", flush=True)

``connect_sync`` is the same without ``async``. See docs/python-client.md for what can be counted on.

A command's way: chat → commands → link (the socket); a frame's way: link → chat → position → turns → buffer.
Loads neither langgraph nor the server: of this package only ``threadwire.protocol`` and what that stands on.
"""

from threadwire.client.batch import Batch
from threadwire.client.chat import Chat
from threadwire.client.errors import BatchFailed, ClientError, CommandFailed, Disconnected, TurnFailed, TurnLost
from threadwire.client.frames import Frames
from threadwire.client.opening import connect
from threadwire.client.sync import SyncBatch, SyncChat, SyncTurn, connect_sync
from threadwire.client.turn import Turn

__all__ = [
    "Batch",
    "BatchFailed",
    "Chat",
    "ClientError",
    "CommandFailed",
    "Disconnected",
    "Frames",
    "SyncBatch",
    "SyncChat",
    "SyncTurn",
    "Turn",
    "TurnFailed",
    "TurnLost",
    "connect",
    "connect_sync",
]
