"""``auth.mode: jwt``: what is checked, by which keys, and what is never believed."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadwire.auth.jwt import ASK_AGAIN_SECONDS, KEYS_SECONDS, Jwt
from threadwire.errors import AuthUnavailable, StartupError, Unauthorized
from threadwire.settings import Jwt as JwtSettings
from who import SECRET, signed

REQUEST: Any = None
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
PEM = (
    RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": time.time() + 3600, **more}


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


async def identity(settings: dict[str, Any], token: str | None) -> str | None:
    """Whose a token is; None where it is refused."""
    checked = Jwt(JwtSettings(**settings))
    try:
        return (await checked.authenticate(REQUEST, token)).user.identity
    except Unauthorized:
        return None
    finally:
        await checked.close()


CASES: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({}, signed(), "alice"),
    ({}, signed(seconds=None), "alice"),
    ({}, signed(seconds=-5), None),
    ({"leeway_seconds": 86_400}, signed(seconds=-5), "alice"),
    ({}, signed(secret="not the issuer's secret, and just as long as that"), None),
    ({}, signed(nbf=time.time() + 3600), None),
    ({"issuer": "https://id"}, signed(iss="https://id"), "alice"),
    ({"issuer": "https://id"}, signed(iss="https://other"), None),
    ({"issuer": "https://id"}, signed(), None),
    ({"audience": "chat"}, signed(aud="chat"), "alice"),
    ({"audience": "chat"}, signed(aud=["mail", "chat"]), "alice"),
    ({"audience": "chat"}, signed(aud="mail"), None),
    ({"audience": "chat"}, signed(), None),
    ({}, signed(aud="mail"), None),
    ({"user_claim": "email"}, signed(email="a@example.org"), "a@example.org"),
    ({"user_claim": "email"}, signed(), None),
    ({"user_claim": "roles"}, signed(roles=["a"]), None),
    ({}, signed(""), None),
    ({}, signed("x" * 257), None),
    ({}, None, None),
    ({}, "", None),
    ({}, "a.b.c", None),
    ({}, jwt.encode(claims(), SECRET, "HS512"), None),
    ({"algorithms": ["HS512"]}, jwt.encode(claims(), SECRET, "HS512"), "alice"),
    ({"algorithms": ["HS512"]}, signed(), None),
    ({}, jwt.encode(claims(), "", algorithm="none"), None),
    # What no run can be kept with, and what no clock shows.
    ({}, signed(big=2**70), None),
    ({}, signed(odd="\ud800"), None),
    ({}, signed("\ud800"), None),
    ({}, signed(deep=nested(250)), "alice"),
    ({}, signed(deep=nested(300)), None),
    ({}, jwt.encode(claims(exp=10**400), SECRET, "HS256"), None),
    ({}, jwt.encode(claims(exp=float("inf")), SECRET, "HS256"), None),
]


@pytest.mark.parametrize(("config", "token", "user"), CASES, ids=map(str, range(len(CASES))))
async def test_what_is_checked(config: dict[str, Any], token: str | None, user: str | None) -> None:
    """Signature, time, issuer, audience, algorithm and the user's claim are each checked, and one wrong is enough."""
    assert await identity({"secret": SECRET, **config}, token) == user


async def test_how_long_it_is_good() -> None:
    """A user is let in until the token's `exp`, and the leeway; by one without, for good."""
    checked = Jwt(JwtSettings(secret=SECRET, leeway_seconds=30))
    ends = time.time() + 3600
    assert (await checked.authenticate(REQUEST, signed(exp=ends))).expires_at == pytest.approx(ends + 30)
    assert (await checked.authenticate(REQUEST, signed(seconds=None))).expires_at is None


async def test_a_public_key(caplog: pytest.LogCaptureFixture) -> None:
    """A PEM in the settings checks what its private key has signed; it is never taken for a shared secret."""
    good = jwt.encode(claims(), RSA, "RS256")
    assert await identity({"public_key": PEM}, good) == "alice"
    assert await identity({"public_key": PEM}, jwt.encode(claims(), OTHER, "RS256")) is None
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "typ": "JWT"}, claims())
    )
    # The classical mix-up: signed with the public key's text, by an algorithm that the token chooses.
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(algorithm.sign(f"{head}.{body}".encode(), PEM.encode())).decode().rstrip("=")
    assert await identity({"public_key": PEM}, f"{head}.{body}.{signature}") is None
    assert await identity({"public_key": PEM, "algorithms": ["RS512"]}, good) is None
    assert "eyJ" not in caplog.text


@pytest.mark.parametrize("pem", ["nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_a_key_that_is_none(pem: str) -> None:
    """A public key that cannot be used is told at the start, with the key's name."""
    with pytest.raises(StartupError, match=r"auth\.jwt\.public_key"):
        Jwt(JwtSettings(public_key=pem))


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
# Not a whole one: with a = behind it, it says the same bits.
@given(st.text(max_size=60) | st.tuples(st.integers(0, 120), st.characters()).map(lambda at: signed()[: at[0]] + at[1]))
def test_any_text_is_refused(token: str) -> None:
    """Whatever comes as a JWT and is none is refused, and nothing else happens."""
    assert asyncio.run(identity({"secret": SECRET}, token)) is None


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000), st.sampled_from("Ab0-_"))
def test_a_changed_token_is_refused(at: int, letter: str) -> None:
    """A token with one character changed is nobody's, but where it says the same bits."""
    token = signed(seconds=1e6, at=1)
    at %= token.rindex(".") + 40
    changed = token[:at] + letter + token[at + 1 :]
    if changed != token:
        assert asyncio.run(identity({"secret": SECRET}, changed)) is None


# --- keys of an issuer ---------------------------------------------------------------------------


class Issuer:
    """It publishes keys, and counts who asks."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    def publish(self, key: Any, kid: str | None, **more: Any) -> None:
        kinds: dict[type, Any] = {
            rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
            ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        }
        kind = next(found for known, found in kinds.items() if isinstance(key, known))
        found = json.loads(kind.to_jwk(key.public_key()))
        self.keys.append({**found, **({"kid": kid} if kid else {}), **more})

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        await self.gate.wait()
        return web.json_response({"keys": self.keys}, status=self.status)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/keys", issuer.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield issuer
    issuer.gate.set()
    await runner.cleanup()


Open = Callable[[], Jwt]


@pytest.fixture
async def checked(issuer: Issuer) -> AsyncIterator[Jwt]:
    found = Jwt(JwtSettings(jwks_url=issuer.url))
    yield found
    await found.close()


def issued(key: Any, kid: str | None, algorithm: str = "RS256", **more: Any) -> str:
    return jwt.encode(claims(**more), key, algorithm, headers={"kid": kid} if kid else None)


async def refused(checked: Jwt, token: str) -> bool:
    try:
        await checked.authenticate(REQUEST, token)
    except Unauthorized:
        return True
    return False


async def test_keys_are_fetched_once(issuer: Issuer, checked: Jwt) -> None:
    """An issuer is asked once for its keys, however many come at the same time, and they are kept."""
    issuer.publish(RSA, "one")
    issuer.publish(EC, "two")
    issuer.gate.clear()
    tokens = [issued(RSA, "one"), issued(EC, "two", "ES256")] * 20
    waiting = asyncio.gather(*(checked.authenticate(REQUEST, token) for token in tokens))
    # The loop goes on meanwhile: nobody is waited for but by who needs the keys.
    await asyncio.sleep(0)
    assert not waiting.done()
    issuer.gate.set()
    assert {grant.user.identity for grant in await waiting} == {"alice"}
    assert issuer.asked == 1
    assert await refused(checked, issued(OTHER, "one"))
    assert await refused(checked, issued(RSA, "two"))


async def test_new_keys_are_found(issuer: Issuer, checked: Jwt) -> None:
    """A key that is not known is looked for again, but not for each token that makes one up."""
    issuer.publish(RSA, "one")
    await checked.authenticate(REQUEST, issued(RSA, "one"))
    issuer.publish(OTHER, "new")
    for number in range(20):
        assert await refused(checked, issued(OTHER, f"made up {number}"))
    assert issuer.asked == 1
    keys = checked._keys
    assert keys is not None
    keys._asked_at -= ASK_AGAIN_SECONDS
    await checked.authenticate(REQUEST, issued(OTHER, "new"))
    assert issuer.asked == 2


async def test_keys_that_are_gone_are_no_good(issuer: Issuer, checked: Jwt) -> None:
    """A key the issuer has taken back is not good any more once its keys are fetched anew."""
    issuer.publish(RSA, "one")
    await checked.authenticate(REQUEST, issued(RSA, "one"))
    issuer.keys.clear()
    issuer.publish(OTHER, "two")
    keys = checked._keys
    assert keys is not None
    keys._due_at -= KEYS_SECONDS
    await checked.authenticate(REQUEST, issued(OTHER, "two"))
    assert await refused(checked, issued(RSA, "one"))


async def test_an_issuer_that_is_away(issuer: Issuer, checked: Jwt) -> None:
    """Without any keys nobody is let in, and that is no fault of theirs; known keys go on being good."""
    issuer.status = 500
    for _ in range(3):
        with pytest.raises(AuthUnavailable):
            await checked.authenticate(REQUEST, issued(RSA, "one"))
    assert issuer.asked == 1
    issuer.status = 200
    issuer.publish(RSA, "one")
    keys = checked._keys
    assert keys is not None
    keys._due_at = keys._asked_at = -KEYS_SECONDS
    await checked.authenticate(REQUEST, issued(RSA, "one"))
    issuer.status = 500
    keys._due_at -= KEYS_SECONDS
    await checked.authenticate(REQUEST, issued(RSA, "one"))


async def test_a_key_without_a_name(issuer: Issuer, checked: Jwt) -> None:
    """An issuer with one key need not name it; one for encrypting signs nothing."""
    issuer.publish(RSA, None)
    issuer.publish(OTHER, "enc", use="enc")
    assert (await checked.authenticate(REQUEST, issued(RSA, None))).user.identity == "alice"
    assert await refused(checked, issued(OTHER, "enc"))
