"""The authenticator that ``auth.mode`` names, with only what that one needs imported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from threadwire.auth import Authenticator, Everybody
from threadwire.settings import Auth
from threadwire.storage import Storage


@asynccontextmanager
async def open_authenticator(settings: Auth, storage: Storage) -> AsyncIterator[Authenticator]:
    """It, until left.

    Raises:
        StartupError: the mode needs what is not installed, a key cannot be used, or the handler cannot be imported.
    """
    if settings.mode == "tokens":
        from threadwire.auth.tokens import Tokens

        tokens = Tokens(storage, settings.tokens)
        try:
            await tokens.refresh()
            yield tokens
        finally:
            tokens.close()
    elif settings.mode == "jwt":
        from threadwire.auth.jwt import Jwt

        checked = Jwt(settings.jwt)
        try:
            yield checked
        finally:
            await checked.close()
    elif settings.mode == "custom":
        from threadwire.auth.custom import Custom

        yield Custom(settings.handler or "")
    else:
        yield Everybody()
