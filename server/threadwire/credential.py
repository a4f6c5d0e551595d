"""What one connection was let in by: it is told when that is about to end, may bring another, is closed when it ends.

Knows no WebSocket: it is given what tells a frame and what ends the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from threadwire.auth import Grant
from threadwire.errors import Forbidden, InternalError, ThreadwireError
from threadwire.logs import get_logger
from threadwire.protocol import CloseCode

logger = get_logger(__name__)

#: How long before a credential ends its connection is told; of one that is short-lived, half of what is left.
WARNING_SECONDS = 60.0
#: How long it is not looked at, at most.
LOOK_SECONDS = 3600.0

Renew: TypeAlias = Callable[[str], Awaitable[Grant]]


class Credential:
    """See the module. ``watch()`` it, and ``stop()`` in the end."""

    __slots__ = ("_end", "_handle", "_notice", "_renew", "_tell", "_warned", "grant", "tasks")

    def __init__(
        self,
        grant: Grant,
        renew: Renew,
        *,
        tell: Callable[[dict[str, Any]], None],
        end: Callable[[int, str], None],
    ) -> None:
        self.grant = grant
        #: Those that look at new tokens, while there are any: a tuple, since an empty set has 216 bytes.
        self.tasks: tuple[asyncio.Task[None], ...] = ()
        self._renew = renew
        self._tell = tell
        self._end = end
        self._handle: asyncio.TimerHandle | None = None
        self._notice = 0.0
        self._warned = False

    def watch(self) -> None:
        """Look after its end from now on."""
        self._warned = False
        left = _left(self.grant)
        # Who brings the same one again and again is told less and less often, and not at once each time.
        self._notice = min(WARNING_SECONDS, (left or 0.0) / 2)
        self._look()

    def stop(self) -> None:
        """The connection ends."""
        if self._handle is not None:
            self._handle.cancel()
        for task in self.tasks:
            task.cancel()

    def replace(self, token: str, answer: Callable[[dict[str, Any] | ThreadwireError], None]) -> None:
        """Let another token of the same user take its place; one that is not stays without effect."""
        task = asyncio.create_task(self._replace(token, answer, self.tasks))
        self.tasks = (*self.tasks, task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks = tuple(other for other in self.tasks if other is not task)

    async def _replace(
        self,
        token: str,
        answer: Callable[[dict[str, Any] | ThreadwireError], None],
        before: tuple[asyncio.Task[None], ...],
    ) -> None:
        if before:
            await asyncio.wait(before)
        try:
            grant = await self._renew(token)
        except ThreadwireError as error:
            answer(error)
            return
        except Exception:
            logger.exception("reauth failed")
            answer(InternalError("The server failed to find out who you are."))
            return
        if grant.user.owner != self.grant.user.owner:
            answer(Forbidden("The token is another user's."))
            return
        if self._handle is not None:
            self._handle.cancel()
        self.grant = grant
        self.watch()
        answer({"expires_in_seconds": _left(grant)})

    def _look(self) -> None:
        left = _left(self.grant)
        if left is None:
            return
        if left <= 0:
            self._end(CloseCode.UNAUTHORIZED, "the credential has expired")
            return
        if left <= self._notice and not self._warned:
            self._warned = True
            self._tell({"type": "credential_expiring", "expires_in_seconds": left})
        # Looked at again, since the loop's clock and the wall's come apart.
        wait = min(left if self._warned else left - self._notice, LOOK_SECONDS)
        self._handle = asyncio.get_running_loop().call_later(wait, self._look)


def _left(grant: Grant) -> float | None:
    return None if grant.expires_at is None else max(0.0, grant.expires_at - time.time())
