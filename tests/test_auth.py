"""Who may in: tokens by every way there is, tickets, tokens that end, and that are taken back."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import who
from conftest import Serve, Servers
from harness import DEADLINE, eventually
from threadwire.auth import Grant, User, commands
from threadwire.auth.made import is_right, make_token, read_token
from threadwire.auth.tickets import MAX_TICKETS, TICKET_SECONDS, Tickets
from threadwire.auth.tokens import Tokens
from threadwire.errors import RateLimited, StartupError, Unauthorized
from threadwire.storage import Storage, TokenRow, open_storage
from who import ALICE, BOB, NO_RATES, TOKENS, attach, base64url, bearer, call, connect, signed
from who import make_token as made

# --- ways to bring one ---------------------------------------------------------------------------


async def test_no_credential_is_4401_and_401(serve: Serve) -> None:
    """Without a credential, or with a bad one, a socket closes with 4401 and a request is 401, before anything."""
    served = await serve("graphs:echo", auth=TOKENS)
    for token in (None, "", "wrong", "tw_0000000000000000_" + "A" * 43, "x" * 4000, "alice"):
        assert await (await connect(served, token)).closed() == 4401
        status, body = await call(served, "POST", "/threads/search", token, {})
        assert (status, body["error"]["code"]) == (401, "unauthorized")
    async with served.session.post(f"{served.url}/threads", data=b"not json") as response:
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("token", [ALICE, "grüße/= und mehr", base64url("a token that looks like base64url")])
async def test_every_way_lets_in(serve: Serve, token: str) -> None:
    """The header, the subprotocol raw or in base64url, and the cookie each let in; none of it is echoed."""
    as_ascii = token.isascii() and " " not in token
    if not as_ascii:
        served = await serve("graphs:echo", auth={"mode": "custom", "handler": "auth_handlers:by_token"})
    else:
        served = await serve("graphs:echo", auth={"mode": "tokens", "tokens": {"alice": token}})
    ways: list[dict[str, Any]] = [{"protocols": (f"bearer.{base64url(token)}",)}]
    if as_ascii:
        ways += [
            {"headers": bearer(token)},
            {"headers": {"Cookie": f"threadwire_token={token}"}},
            {"protocols": (f"bearer.{token}",)},
        ]
    for way in ways:
        socket = await connect(served, **way)
        assert (await socket.next())["type"] == "ready", way
        assert socket.ws.protocol == "threadwire.v1"
        assert token not in str(socket.ws._response.headers)
    if as_ascii:
        async with served.session.get(
            f"{served.url}/threads/x", headers={"Cookie": f"threadwire_token={token}"}
        ) as got:
            assert got.status == 404


async def test_a_token_beside_no_protocol_is_told(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A subprotocol token without threadwire.v1, which a browser could not live with, is 400, and in no log."""
    served = await serve("graphs:echo", auth=TOKENS)
    with caplog.at_level(logging.DEBUG), pytest.raises(WSServerHandshakeError) as refused:
        await served.session.ws_connect(f"{served.url}/ws", protocols=(f"bearer.{ALICE}",))
    assert refused.value.status == 400
    assert ALICE not in caplog.text


async def test_the_first_credential_counts(serve: Serve) -> None:
    """A bad token in the header is not made good by a cookie; a scheme of somebody else's is none of ours."""
    served = await serve("graphs:echo", auth=TOKENS)
    cookie = f"threadwire_token={ALICE}"
    assert (await call(served, "POST", "/threads/search", "wrong", {}, Cookie=cookie))[0] == 401
    assert (await call(served, "POST", "/threads/search", None, {}, Cookie=cookie, Authorization="Basic eDp5"))[
        0
    ] == 200


# --- tickets -------------------------------------------------------------------------------------


async def test_a_ticket_is_good_once(serve: Serve) -> None:
    """POST /tickets gives what lets its user in once, by the address, and no second time; never over HTTP."""
    served = await serve("graphs:echo", auth=TOKENS)
    mine = await who.thread_of(served, ALICE)
    status, given = await call(served, "POST", "/tickets", ALICE)
    assert (status, given["expires_in_seconds"]) == (200, 30)
    assert (await call(served, "GET", f"/threads/{mine}?ticket={given['ticket']}"))[0] == 401
    await attach(served, thread_id=mine, ticket=given["ticket"])
    assert await (await connect(served, ticket=given["ticket"])).closed() == 4401
    assert await (await connect(served, ticket="")).closed() == 4401
    assert (await call(served, "POST", "/tickets"))[0] == 401


async def test_where_nobody_is_asked_none_is_refused(serve: Serve) -> None:
    """With auth.mode none, what is no credential here, such as an old ticket or token, keeps nobody out."""
    served = await serve("graphs:echo")
    old, none = await connect(served, ticket="old"), await connect(served, ticket="")
    for socket in (old, none, await connect(served, "old")):
        assert (await socket.next())["type"] == "ready"


async def test_a_ticket_outlives_no_credential(serve: Serve) -> None:
    """How long a ticket is said to be good is never longer than the credential it was asked for with."""
    served = await serve("graphs:echo", auth=who.JWT)
    status, given = await call(served, "POST", "/tickets", signed(seconds=20))
    assert status == 200
    assert 0 < given["expires_in_seconds"] <= 20
    assert (await call(served, "POST", "/tickets", signed(seconds=3600)))[1]["expires_in_seconds"] == 30


async def test_short_tokens_are_warned_of(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A fixed token that can be guessed is named by its user at the start, and not said itself."""
    short, long = "guess-me", "g" * 16
    await serve("graphs:echo", auth={"mode": "tokens", "tokens": {"alice": short, "bob": long}})
    [record] = [record for record in caplog.records if "auth.tokens has short ones" in record.getMessage()]
    assert "alice" in record.getMessage()
    assert "bob" not in record.getMessage()
    assert short not in caplog.text


def test_tickets_end_and_are_few() -> None:
    """A ticket ends after 30 s; a user who asks for many loses the oldest, and nobody else's; nothing is left over."""
    tickets, alice, bob = Tickets(), Grant(User("alice")), Grant(User("bob"))
    old = tickets.issue(alice, 0.0)
    assert tickets.redeem(old, TICKET_SECONDS) is None
    assert tickets.redeem(tickets.issue(alice, 0.0), TICKET_SECONDS - 0.1) is alice
    bobs = tickets.issue(bob, 1.0)
    many = [tickets.issue(alice, 1.0) for _ in range(MAX_TICKETS + 5)]
    assert tickets.redeem(many[4], 2.0) is None
    assert tickets.redeem(many[5], 2.0) is alice
    assert tickets.redeem(bobs, 2.0) is bob
    tickets.issue(bob, 2.0 + TICKET_SECONDS)
    assert len(tickets) == len(tickets._of) == 1


# --- tokens of the database ----------------------------------------------------------------------


async def test_tokens_are_made_while_the_server_runs(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A token made now lets in at once; its name is the user's; what is kept of it is a hash."""
    served = await serve("graphs:echo", auth=TOKENS)
    token = made(served.database, capsys, "carol")
    mine = await who.thread_of(served, token)
    assert (await call(served, "GET", f"/threads/{mine}", token))[0] == 200
    assert (await call(served, "GET", f"/threads/{mine}", ALICE))[0] == 404
    secret = token.rpartition("_")[2]
    for file in served.database.parent.glob(f"{served.database.name}*"):
        assert secret.encode() not in file.read_bytes()
        assert ALICE.encode() not in file.read_bytes()


async def test_revoking_closes_sockets(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Revoking closes the user's open sockets with 4401 within 10 s, and nobody else's; the token is no good then."""
    served = await serve("graphs:echo", auth=TOKENS)
    token = made(served.database, capsys, "carol")
    carols, alices = await attach(served, token), await attach(served, ALICE)
    ticket = (await call(served, "POST", "/tickets", token))[1]["ticket"]
    assert commands.revoke(f"sqlite:///{served.database}", "carol", ()) == 0
    async with asyncio.timeout(10):
        assert await carols.closed() == 4401
    assert (await alices.ask("ping"))["type"] == "pong"
    assert await (await connect(served, token)).closed() == 4401
    assert await (await connect(served, ticket=ticket)).closed() == 4401
    assert (await call(served, "POST", "/threads/search", token, {}))[0] == 401


async def test_scrypt_is_paid_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that was right is not hashed again for each request; one that is not known is not hashed at all."""
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    token = await asyncio.to_thread(made, tmp_path / "tokens.db", capsys, "carol")
    asked = []

    def counted(secret: str, row: Any) -> bool:
        asked.append(secret)
        return is_right(secret, row)

    monkeypatch.setattr("threadwire.auth.tokens.is_right", counted)
    request: Any = None
    async with open_storage(url) as storage:
        tokens = Tokens(storage, {})
        for _ in range(5):
            assert (await tokens.authenticate(request, token)).user.identity == "carol"
        for wrong in ("nobody", make_token("dave", 0, None).token):
            with pytest.raises(Unauthorized):
                await tokens.authenticate(request, wrong)
        assert len(asked) == 1
        with pytest.raises(Unauthorized):
            await tokens.authenticate(request, token[:-1] + ("A" if token[-1] != "A" else "B"))
        assert len(asked) == 2
        tokens.close()


class Counted:
    """Storage that says how often all tokens were read."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.read = 0
        self.token = storage.token

    async def tokens(self) -> list[TokenRow]:
        self.read += 1
        return await self._storage.tokens()


async def test_wrong_secrets_hold_nobody_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one id one secret is hashed at a time; the same one by many is hashed once; ids are looked up one by one."""
    database = tmp_path / "tokens.db"
    mallorys, carols = [await asyncio.to_thread(made, database, capsys, name) for name in ("mallory", "carol")]
    hashed: list[str] = []
    goes_on = threading.Event()

    def held(secret: str, row: Any) -> bool:
        hashed.append(secret)
        assert goes_on.wait(DEADLINE)
        return is_right(secret, row)

    monkeypatch.setattr("threadwire.auth.tokens.is_right", held)
    request: Any = None
    async with open_storage(f"sqlite:///{database}") as storage:
        counted: Any = Counted(storage)
        tokens = Tokens(counted, {})
        known = mallorys.rpartition("_")[0]
        wrong = [f"{known}_{number:043}" for number in range(200)]
        tried = [asyncio.create_task(tokens.authenticate(request, token)) for token in (*wrong, *[carols] * 50)]
        await eventually(lambda: sum(task.done() for task in tried[:200]) == 199, "all but one are refused at once")
        goes_on.set()
        found = await asyncio.gather(*tried, return_exceptions=True)
        kinds = Counter(type(one) for one in found)
        assert kinds == {Unauthorized: 1, RateLimited: 199, Grant: 50}
        assert len(hashed) == 2
        for _ in range(50):
            with pytest.raises(Unauthorized):
                await tokens.authenticate(request, make_token("x", 0, None).token)
        assert (len(hashed), counted.read) == (2, 0)
        tokens.close()


async def test_bad_credentials_are_metered(serve: Serve) -> None:
    """An address with too many bad credentials gets 429 and 4429, also for good ones; one elsewhere does not."""
    served = await serve(
        "graphs:echo", auth=TOKENS, limits={"upgrades_per_second": 20}, server={"trusted_proxies": ["127.0.0.1"]}
    )
    bad, good = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    for _ in range(25):
        # None is no guess.
        assert (await call(served, "POST", "/threads/search", None, {}, **bad))[0] == 401

    async def shut() -> bool:
        async with served.session.post(
            f"{served.url}/threads/search", data=b"{}", headers={**bearer("wrong"), **bad}
        ) as response:
            if response.status == 401:
                return False
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 60
            return True

    await eventually(shut, "enough is enough")
    socket = await connect(served, "wrong", headers=bad)
    assert await socket.closed() == 4429
    assert (await call(served, "POST", "/threads/search", ALICE, {}, **good))[0] == 200
    reauthed = await attach(served, ALICE, headers=good)
    for _ in range(25):
        await reauthed.command("reauth", token="wrong", id="x")
    codes = [(await reauthed.next())["code"] for _ in range(25)]
    assert codes[0] == "unauthorized"
    assert "rate_limited" in codes


@settings(max_examples=5)
@given(st.text(min_size=1, max_size=50), st.integers(0, 42))
def test_a_token_is_right_or_wrong(name: str, at: int) -> None:
    """A token is its own row's, and with one character changed nobody's."""
    token, row = make_token(name, 0.0, None)
    parts = read_token(token)
    assert parts is not None
    assert parts[0] == row.token_id
    assert is_right(parts[1], row)
    other = "A" if parts[1][at] != "A" else "B"
    assert not is_right(parts[1][:at] + other + parts[1][at + 1 :], row)


@given(st.text(max_size=100) | st.from_regex(r"tw_[0-9a-f]{15,17}_[A-Za-z0-9_-]{42,44}", fullmatch=True))
def test_any_text_is_a_token_or_none(text: str) -> None:
    """Reading a token raises nothing, whatever comes."""
    found = read_token(text)
    assert found is None or f"tw_{found[0]}_{found[1]}" == text


async def test_any_token_is_refused(serve: Serve) -> None:
    """Whatever comes as a token that is none: 401 and 4401, never an error of ours, never in."""
    served = await serve("graphs:echo", auth=TOKENS, limits=NO_RATES)
    printable = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=80)
    asked = []

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(printable | st.sampled_from([ALICE + "x", ALICE.upper(), "bearer." + ALICE, signed()]))
    def collect(token: str) -> None:
        asked.append(token)

    await asyncio.to_thread(collect)
    for token in asked:
        for sent in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"threadwire_token={token}"}):
            async with served.session.post(f"{served.url}/threads/search", data=b"{}", headers=sent) as response:
                assert response.status == 401, token
        names = (f"bearer.{base64url(token)}",)
        assert await (await connect(served, protocols=names)).closed() == 4401


async def test_the_command(servers: Servers, tmp_path: Path) -> None:
    """`threadwire token` prints a token once, lists, revokes, and says what is wrong in a line, with exit code 2."""
    server = servers("tokens")
    await server.start(auth__mode="tokens", auth__tokens=json.dumps({"fixed": "a-fixed-token"}))
    fixed = {"THREADWIRE_AUTH__TOKENS": json.dumps({"fixed": "a-fixed-token"})}

    async def token(*arguments: str) -> tuple[int, str, str]:
        import os
        import sys

        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "threadwire", "token", *arguments,
            cwd=tmp_path, env={**os.environ, **fixed},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    code, out, err = await token("create", "carol", "--expires-in-days", "2")
    assert (code, len(out.splitlines())) == (0, 1)
    # The server's mode is in its own environment here.
    assert err == "threadwire: auth.mode is none: it opens nothing until that is tokens\n"
    assert read_token(out.strip()) is not None
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def status() -> int:
            async with session.post(
                f"{server.url}/threads/search", data=b"{}", headers=bearer(out.strip())
            ) as response:
                return response.status

        assert await status() == 200
        assert (await token("create", "carol"))[0] == 2
        assert (await token("create", "fixed"))[0] == 2
        code, listed, _ = await token("list")
        assert [line.split()[0] for line in listed.splitlines()] == ["fixed", "carol"]
        assert out.strip() not in listed
        assert "a-fixed-token" not in listed
        assert (await token("revoke", "nobody"))[::2] == (
            2,
            "threadwire: nobody: has no token (threadwire token list)\n",
        )
        assert (await token("revoke", "carol"))[0] == 0
        assert await eventually(lambda: _is(status(), 401), "the token is refused", 10)


async def _is(found: Any, wanted: Any) -> bool:
    return bool(await found == wanted)


def test_names_of_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name is text that can be seen; one whose token has ended can be used again."""
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    for name in ("", " x", "a\nb", "x" * 257):
        with pytest.raises(StartupError):
            commands.create(url, name, None, ())
    made(tmp_path / "tokens.db", capsys, "carol", 1e-9)
    made(tmp_path / "tokens.db", capsys, "carol")


# --- a handler of one's own ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "socket", "http"),
    [
        ("alice", None, 200),
        ("table", None, 200),
        ("thing", None, 200),
        ("user", None, 200),
        ("nobody", 4401, 401),
        ("refused", 4401, 401),
        ("banned", 4403, 403),
        ("permission", 4401, 401),
        ("http401", 4401, 401),
        ("broken", 1013, 503),
        ("nameless", 1013, 503),
        ("endless", 1013, 503),
    ],
)
async def test_what_a_handler_gives(serve: Serve, name: str, socket: int | None, http: int) -> None:
    """The handler's user is let in, its refusal refuses, and its failure lets nobody in."""
    served = await serve("graphs:echo", auth={"mode": "custom", "handler": "auth_handlers:by_token"})
    opened = await connect(served, name)
    if socket is None:
        assert (await opened.next())["type"] == "ready"
    else:
        assert await opened.closed() == socket
    assert (await call(served, "POST", "/threads/search", name, {}))[0] == http


@pytest.mark.parametrize("target", ["auth_handlers:missing", "auth_handlers:plain", "no_such_module:x"])
async def test_a_handler_that_is_none(serve: Serve, target: str) -> None:
    """A handler that cannot be used keeps the server from starting, with a line that names the key."""
    with pytest.raises(StartupError, match=r"auth\.handler: "):
        await serve("graphs:echo", auth={"mode": "custom", "handler": target})


async def test_probes_and_the_page_ask_nobody(serve: Serve) -> None:
    """The page, which asks for the token, its files, probes and the schema need no credential; nothing else is open."""
    from threadwire.gate import PUBLIC

    served = await serve("graphs:echo", auth=TOKENS)
    for path in ("/", "/client/threadwire.js", "/healthz", "/readyz", "/protocol.json", "/openapi.json"):
        assert (await call(served, "GET", path))[0] == 200, path
    assert {"/", "/client/{path}", "/healthz", "/readyz", "/protocol.json", "/openapi.json"} == PUBLIC
    assert (await call(served, "GET", "/nowhere"))[0] == 401
    assert (await call(served, "GET", "/nowhere", BOB))[0] == 404
