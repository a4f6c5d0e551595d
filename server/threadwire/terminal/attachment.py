"""What to tell a person of a connection that comes and goes."""

from __future__ import annotations

from threadwire.client import Chat

LOST = "connection lost: reconnecting…"
#: Whoever loads the history in place of the frames says it.
RELOADED = "some frames were missed: reloaded"
_BACK = {
    "replayed": "back, nothing was missed",
    "gap": "back",
    "fresh": "back",
}


class Attachment:
    """Looks at a chat from time to time."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._ready = chat.ready
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether there is no connection now."""
        return self._chat.state == "reconnecting"

    def news(self) -> str | None:
        """What has become of the connection since the last look, if anything."""
        if self._chat.ready is not self._ready:
            self._ready = self._chat.ready
            self._lost = False
            return _BACK[self._ready.resume]
        if self.lost and not self._lost:
            self._lost = True
            return LOST
        return None
