"""``auth.mode: jwt``: tokens that an issuer has signed, checked with PyJWT (extra ``jwt``).

Which algorithms are taken is the operator's word, never the token's. An issuer's keys are fetched with aiohttp, so that
nothing waits for that but who brings a key not seen yet, and are kept; a key that is not among them is asked for again,
but not more often than every ``ASK_AGAIN_SECONDS``, whoever makes up how many names.
"""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from threadwire.auth import MAX_IDENTITY, Grant, User
from threadwire.errors import AuthUnavailable, StartupError, Unauthorized
from threadwire.logs import get_logger
from threadwire.settings import Jwt as JwtSettings

try:
    import jwt
except ImportError as missing:
    raise StartupError("auth.mode: jwt needs PyJWT: pip install 'threadwire[jwt]'") from missing

logger = get_logger(__name__)

#: How long the issuer's keys are good before they are fetched anew.
KEYS_SECONDS = 600.0
#: How soon after a fetch an unknown key, or a failure, makes for another one.
ASK_AGAIN_SECONDS = 10.0
FETCH_SECONDS = 10.0


class Jwt:
    """See the module. ``close()`` it."""

    def __init__(self, settings: JwtSettings) -> None:
        """Raises ``StartupError`` for a public key that is none, or algorithms that are not there."""
        self._settings = settings
        secret = settings.secret.get_secret_value() if settings.secret is not None else None
        if secret is not None and len(secret.encode()) < 32:
            logger.warning("auth.jwt.secret is short", bytes=len(secret.encode()), expected="32 or more")
        # PyJWT's own word on that, for each token.
        warnings.filterwarnings("ignore", message="The HMAC key is")
        self._algorithms = settings.pinned()
        try:
            known = [name for name in self._algorithms if name in jwt.algorithms.get_default_algorithms()]
            if not known:
                raise StartupError(f"auth.jwt.algorithms: {self._algorithms[0]} needs: pip install 'threadwire[jwt]'")
            self._key = self._own_key()
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            raise StartupError(f"auth.jwt.public_key: cannot be used: {' '.join(str(error).split())}") from error
        self._keys = Keys(settings.jwks_url) if settings.jwks_url is not None else None

    async def authenticate(self, request: web.Request, token: str | None) -> Grant:  # noqa: ARG002 -- all is in the token
        """Whom the token names. Raises ``Unauthorized``, or ``AuthUnavailable`` where the keys cannot be had."""
        if token is None:
            raise Unauthorized("A token is needed.")
        settings = self._settings
        try:
            key = self._key if self._keys is None else await self._keys.find(jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_seconds,
                options={"verify_sub": False},  # whatever the claim is that names the user is looked at below
            )
            return self._grant(claims)
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The token has expired.") from None
        # The last three: claims that are no JSON as it is kept, with numbers and texts beyond all bounds.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            logger.info("token refused", why=type(error).__name__)
            raise Unauthorized("The token is not good.") from None

    def _grant(self, claims: dict[str, Any]) -> Grant:
        identity = claims.get(self._settings.user_claim)
        if not isinstance(identity, str) or not 0 < len(identity) <= MAX_IDENTITY:
            raise Unauthorized(f"The token does not say who its user is ({self._settings.user_claim}).")
        name = claims.get("name")
        user = User(identity, name if isinstance(name, str) else "", _permissions(claims), claims)
        # It is kept with the runs of this user.
        orjson.dumps(user.for_graph())
        expires_at = claims.get("exp")
        return Grant(user, float(expires_at) + self._settings.leeway_seconds if expires_at is not None else None)

    async def refresh(self) -> None:
        """Nothing can be revoked: a token ends by itself."""

    def holds(self, grant: Grant) -> bool:  # noqa: ARG002
        """Always."""
        return True

    async def close(self) -> None:
        """Stop fetching."""
        if self._keys is not None:
            await self._keys.close()

    def _own_key(self) -> Any:
        if self._settings.secret is not None:
            return self._settings.secret.get_secret_value()
        if self._settings.public_key is None:
            return None
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        return load_pem_public_key(self._settings.public_key.encode())


class Keys:
    """An issuer's keys, by their ids (JWKS, RFC 7517)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, Any] = {}
        #: In the loop's seconds: when they were last asked for, and when they are to be again.
        self._asked_at = self._due_at = -KEYS_SECONDS
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, header: dict[str, Any]) -> Any:
        """The key that a token's header names, or the only one.

        Raises:
            AuthUnavailable: there are none yet, and the issuer does not give any.
            jwt.PyJWTError: it has no such key.
        """
        key, now = self._named(header), asyncio.get_running_loop().time()
        if self._fetching is None and (
            now >= self._due_at or (key is None and now - self._asked_at >= ASK_AGAIN_SECONDS)
        ):
            self._asked_at = now
            self._fetching = asyncio.create_task(self._fetch(), name="keys of the issuer")
        if key is None and self._fetching is not None:
            # It outlives who waits for it.
            await asyncio.shield(self._fetching)
            key = self._named(header)
        if key is not None:
            return key
        if not self._keys:
            raise AuthUnavailable("The issuer's keys cannot be had at the moment.")
        raise jwt.InvalidKeyError("no such key")

    def _named(self, header: dict[str, Any]) -> Any:
        name = header.get("kid")
        if name is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(name)

    async def _fetch(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._url, headers={"Accept": "application/json"}) as response,
            ):
                response.raise_for_status()
                # Keys of kinds that PyJWT does not know are left out by it.
                found = jwt.PyJWKSet.from_dict(orjson.loads(await response.read())).keys
        except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
            # What is known goes on being good: an issuer that is away locks nobody out.
            logger.warning("keys not fetched", url=self._url, error=f"{type(error).__name__}: {error}"[:300])
            self._due_at = loop.time() + ASK_AGAIN_SECONDS
        else:
            # Without their own word on the algorithm: which are taken is the operator's.
            self._keys = {key.key_id: key.key for key in found if key.public_key_use in (None, "sig")}
            self._due_at = loop.time() + KEYS_SECONDS
        finally:
            self._fetching = None

    async def close(self) -> None:
        """Stop fetching."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})


def _permissions(claims: dict[str, Any]) -> tuple[str, ...]:
    """``permissions``, or the words of OAuth's ``scope``."""
    found = claims.get("permissions", claims.get("scope", ()))
    if isinstance(found, str):
        found = found.split()
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list | tuple) else ()
