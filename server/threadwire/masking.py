"""Secrets, kept out of what people are shown: which of the settings are some, and what looks like one in any text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import SecretStr
from yarl import URL

MASK = "********"

#: Shorter ones would be found in the middle of other words.
_SHORTEST = 4
# Of an MCP server's free-form table only what holds no secret is shown.
_OPEN_MCP_KEYS = frozenset({"command", "cwd", "transport", "url"})
_URL_USER = re.compile(r"(://)[^/?#\s\"']+@")
_URL_SECRET = re.compile(r"([?&][^=&#\s]*(?:key|token|secret|password|sig|ticket)[^=&#\s]*=)[^&#\s\"']+", re.IGNORECASE)
#: Header and subprotocol by which a credential comes, and keys as providers make them.
_CREDENTIALS = (
    re.compile(r"(\b(?:bearer|basic)[ .])[\w.~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"(\bauthorization\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!\*)[^\s\"'\\,}]+", re.IGNORECASE),
    re.compile(r"(\b(?:sk-|tw_))[\w-]{16,}"),
)


def _masked(found: re.Match[str]) -> str:
    # A template would be compiled by a module that cannot be imported any more where Python shuts down, and logs.
    return f"{found[1]}{MASK}"


def mask_url(text: str) -> str:
    """Without the credentials of URLs in it."""
    return _URL_SECRET.sub(_masked, _URL_USER.sub(lambda found: f"{_masked(found)}@", text))


def masker(secrets: Collection[str]) -> Callable[[str], str]:
    """What takes ``secrets``, and what looks like some, out of a text."""
    # As they stand, and as they stand in JSON; the longest first, since one may be a part of another.
    forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1]) if len(secret) >= _SHORTEST}
    known = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None

    def mask(text: str) -> str:
        if known is not None:
            text = known.sub(MASK, text)
        for pattern in _CREDENTIALS:
            text = pattern.sub(_masked, text)
        return mask_url(text)

    return mask


def hides(at: Sequence[str]) -> bool:
    """Whether the setting at that path may be a secret though its type does not say so."""
    return tuple(at[:2]) == ("agent", "mcp_servers") and not (len(at) == 4 and at[3] in _OPEN_MCP_KEYS)


def secrets_in(value: Any, at: tuple[str, ...] = ()) -> Iterator[str]:
    """All that is secret in dumped settings, also the passwords of URLs."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets_in(item, (*at, str(key)))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from secrets_in(item, at)
    elif isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, str):
        if hides(at):
            yield value
        elif "://" in value and (password := _password(value)):
            yield password


def _password(text: str) -> str | None:
    try:
        return URL(text).password
    except ValueError:
        return None
