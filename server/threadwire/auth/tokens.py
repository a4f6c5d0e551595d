"""``auth.mode: tokens``: those of ``threadwire token create``, in the database, and fixed ones from the settings.

A token of the database costs scrypt once: which token was right is remembered, by a digest under a key that lives as
long as the process. The hashing is done in a thread of its own, one after the other, so that neither the loop nor the
graphs' threads wait for whoever tries; and of each token's id one secret at a time, so that whoever has a token, and
tries others with its id, holds up nobody's first request by more than one hash.
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
from threadwire.errors import RateLimited, Unauthorized
from threadwire.logs import get_logger
from threadwire.storage import Storage, TokenRow

logger = get_logger(__name__)

#: Tokens that were right and are remembered; past that, scrypt is asked again.
MAX_REMEMBERED = 10_000
#: Fixed tokens of fewer characters are warned of.
GUESSABLE = 16
#: When another secret of the same id may be worth a try.
_RETRY_SECONDS = 1.0
_REFUSED = "The token is not known, or not good any more."


class Tokens:
    """See the module. ``close()`` it."""

    def __init__(self, storage: Storage, fixed: Mapping[str, SecretStr]) -> None:
        self._storage = storage
        self._key = secrets.token_bytes(32)
        if short := sorted(name for name, token in fixed.items() if len(token.get_secret_value()) < GUESSABLE):
            logger.warning("auth.tokens has short ones", names=short, expected=f"{GUESSABLE} characters or more")
        self._fixed = {name: self._digest(token.get_secret_value()) for name, token in fixed.items()}
        self._rows: dict[str, TokenRow] = {}
        #: Of these, those that were found one by one since all were asked for.
        self._found: dict[str, TokenRow] = {}
        #: The digest of a token that was right, and its row's id.
        self._right: dict[bytes, str] = {}
        #: What is being hashed, by the token's id: its digest, and whether it is right.
        self._looking: dict[str, tuple[bytes, asyncio.Future[bool]]] = {}
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    async def authenticate(self, request: web.Request, token: str | None) -> Grant:  # noqa: ARG002 -- all is in the token
        """Whose token it is. Raises ``Unauthorized``, ``RateLimited``, or ``StorageError``."""
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
        self._found = {}
        rows = {row.token_id: row for row in await self._storage.tokens()}
        # One that was made while all were read may not be among them.
        self._rows = rows | self._found
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
        # It may be a moment old.
        if (row := self._rows.get(token_id) or await self._storage.token(token_id)) is None:
            return None
        if token_id not in self._rows:
            self._rows[token_id] = self._found[token_id] = row
        if not await self._is_right(secret, digest, row):
            return None
        while len(self._right) >= MAX_REMEMBERED:
            del self._right[next(iter(self._right))]
        self._right[digest] = token_id
        # It may have been revoked while it was looked at.
        return self._rows.get(token_id)

    async def _is_right(self, secret: str, digest: bytes, row: TokenRow) -> bool:
        """Hash it, once for all who bring it meanwhile; raises ``RateLimited`` where another of its id is hashed."""
        looking = self._looking.get(row.token_id)
        if looking is None:
            hashing = asyncio.get_running_loop().run_in_executor(self._hashing, is_right, secret, row)
            looking = self._looking[row.token_id] = digest, hashing
            hashing.add_done_callback(lambda _: self._looking.pop(row.token_id))
        if not hmac.compare_digest(looking[0], digest):
            raise RateLimited(
                f"Another token of the same id is looked at: try again in {_RETRY_SECONDS:g} s.",
                retry_after_seconds=_RETRY_SECONDS,
            )
        # It outlives who waits for it.
        return await asyncio.shield(looking[1])

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), key=self._key).digest()
