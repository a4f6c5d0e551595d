"""``auth.mode: tokens``: those of ``threadwire token create``, in the database, and fixed ones from the settings.

A token of the database costs scrypt once: which token was right is remembered, by a digest under a key that lives as
long as the process. The hashing is done in a thread of its own, one after the other, so that neither the loop nor the
graphs' threads wait for whoever tries.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web
from pydantic import SecretStr

from threadwire.auth import Grant, User
from threadwire.auth.made import is_right, read_token
from threadwire.errors import Unauthorized
from threadwire.storage import Storage, TokenRow

#: Tokens that were right and are remembered; past that, scrypt is asked again.
MAX_REMEMBERED = 10_000
_REFUSED = "The token is not known, or not good any more."


class Tokens:
    """See the module. ``close()`` it."""

    def __init__(self, storage: Storage, fixed: Mapping[str, SecretStr]) -> None:
        self._storage = storage
        self._key = secrets.token_bytes(32)
        self._fixed = {name: self._digest(token.get_secret_value()) for name, token in fixed.items()}
        self._rows: dict[str, TokenRow] = {}
        #: The digest of a token that was right, and its row's id.
        self._right: dict[bytes, str] = {}
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    async def authenticate(self, request: web.Request, token: str | None) -> Grant:  # noqa: ARG002 -- all is in the token
        """Whose token it is. Raises ``Unauthorized``, or ``StorageError``."""
        if token is None:
            raise Unauthorized("A token is needed.")
        digest = self._digest(token)
        # Each is compared, and each to its end: how long it takes tells nothing.
        found = [name for name, known in self._fixed.items() if hmac.compare_digest(known, digest)]
        if found:
            return Grant(User(found[0]))
        row = await self._find(token, digest)
        if row is None or (row.expires_at is not None and row.expires_at <= time.time()):
            raise Unauthorized(_REFUSED)
        return Grant(User(row.name), row.expires_at, row.token_id)

    async def refresh(self) -> None:
        """Read what tokens there are."""
        self._rows = {row.token_id: row for row in await self._storage.tokens()}
        self._right = {digest: token_id for digest, token_id in self._right.items() if token_id in self._rows}

    def holds(self, grant: Grant) -> bool:
        """Whether its token has not been revoked."""
        return grant.token_id is None or grant.token_id in self._rows

    def close(self) -> None:
        """Let the thread go."""
        self._hashing.shutdown(wait=False, cancel_futures=True)

    async def _find(self, token: str, digest: bytes) -> TokenRow | None:
        if (token_id := self._right.get(digest)) is not None and token_id in self._rows:
            return self._rows[token_id]
        parts = read_token(token)
        if parts is None:
            return None
        token_id, secret = parts
        if token_id not in self._rows:
            # It may be a moment old.
            await self.refresh()
        row = self._rows.get(token_id)
        if row is None or not await asyncio.get_running_loop().run_in_executor(self._hashing, is_right, secret, row):
            return None
        while len(self._right) >= MAX_REMEMBERED:
            del self._right[next(iter(self._right))]
        self._right[digest] = token_id
        # It may have been revoked while it was looked at.
        return self._rows.get(token_id)

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), key=self._key).digest()
