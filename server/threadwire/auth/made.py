"""Tokens of our own making: what they look like, and what is kept of them. Pure but for chance.

``tw_ID_SECRET``: the id finds the row, so that one hash is computed for a request and not one for every token there
is; the secret has 256 bits, so that guessing is hopeless however fast a hash may be.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from threadwire.storage import TokenRow

#: scrypt's cost: 16 MiB and some 50 ms, as RFC 7914 and OWASP have it for logins.
COST, BLOCK, LANES = 2**14, 8, 1
_TOKEN = re.compile(r"tw_([0-9a-f]{16})_([A-Za-z0-9]{43})")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Made(NamedTuple):
    """A new token: what its user gets, which is said once, and what is kept."""

    token: str
    row: TokenRow


def make_token(name: str, now: float, expires_at: float | None) -> Made:
    """A new token for a user of that name."""
    token_id = secrets.token_hex(8)
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(43))
    salt = secrets.token_bytes(16)
    return Made(f"tw_{token_id}_{secret}", TokenRow(token_id, name, salt, _hash(secret, salt), now, expires_at))


def read_token(token: str) -> tuple[str, str] | None:
    """Its id and its secret; None where it is none of ours."""
    found = _TOKEN.fullmatch(token)
    return (found[1], found[2]) if found is not None else None


def is_right(secret: str, row: TokenRow) -> bool:
    """Whether that is the token's secret; takes as long as a login may, and lets other threads run meanwhile."""
    return hmac.compare_digest(_hash(secret, row.salt), row.hash)


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, n=COST, r=BLOCK, p=LANES, dklen=32)
