"""Whose a thread is: its row says so, and before it has one, its id does.

With auth on, only the server gives ids to threads. An id that was given and not written to yet is nobody's row; that
it is this user's is told by 32 of its bits, which are a MAC of the others and the user's name under a key that is kept
in the database. So it is still theirs after a restart, and nothing has to be remembered of a thread that is never
written to. It stays a UUIDv7: the time and 42 random bits are as they were. Knows no sockets.
"""

from __future__ import annotations

import hashlib
import hmac
from uuid import UUID

import uuid_utils

from threadwire.auth import User
from threadwire.errors import CommandError
from threadwire.storage import Storage

#: Of a minted id, the lowest bits.
MAC_BITS = 32


class NoSuchThread(CommandError):  # noqa: N818 -- the protocol's way
    """There is no thread of that id, for this user: another's is told in the same words."""

    code = "not_found"
    http_status = 404

    def __init__(self) -> None:
        super().__init__("There is no such thread.")


class Ownership:
    """Which threads are whose. ``key`` is kept as long as the threads are."""

    def __init__(self, storage: Storage, key: bytes) -> None:
        self._storage = storage
        self._key = key

    def mint(self, user: User) -> str:
        """A thread id nobody has used, for a user: a UUIDv7, so that ids sort by age."""
        found = uuid_utils.uuid7().int
        if user.is_authenticated:
            found = found >> MAC_BITS << MAC_BITS
            found |= self._mac(found, user)
        return str(UUID(int=found))

    async def check(self, user: User, thread_id: str) -> None:
        """Pass an id that is this user's; where nobody says who they are, also one that is nobody's yet.

        The same is done for each id, whether there is such a thread or not.

        Raises:
            NoSuchThread: it is not theirs.
        """
        minted = self._is_minted_for(user, thread_id)
        owner = await self._storage.owner_of(thread_id)
        free = owner is None and (minted or not user.is_authenticated)
        if not free and owner != user.owner:
            raise NoSuchThread

    def _is_minted_for(self, user: User, thread_id: str) -> bool:
        try:
            found = UUID(thread_id)
        except ValueError:
            found = UUID(int=0)
        whole = found.int >> MAC_BITS << MAC_BITS
        given = (found.int - whole).to_bytes(MAC_BITS // 8, "big")
        right = hmac.compare_digest(self._mac(whole, user).to_bytes(MAC_BITS // 8, "big"), given)
        return right and str(found) == thread_id

    def _mac(self, whole: int, user: User) -> int:
        message = whole.to_bytes(16, "big") + user.identity.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(message, key=self._key, digest_size=MAC_BITS // 8).digest()
        return int.from_bytes(digest, "big")
