"""Which pages may use a server, and what a proxy in between may say: Origin, CORS, Host, X-Forwarded-For, TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
from aiohttp import WSServerHandshakeError, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from conftest import Serve, Servers
from harness import Served
from threadwire.auth.origin import Origins
from threadwire.auth.proxies import Proxies
from threadwire.errors import Forbidden, StartupError
from threadwire.tls import context
from who import ALICE, TOKENS, attach, bearer, call, connect

CHAT = "https://chat.example"


def request(**headers: str) -> web.Request:
    return make_mocked_request("GET", "/", headers={"Host": "server.example:8000", **headers})


def knows(origin: str, *allowed: str, scheme: str = "http") -> bool:
    try:
        Origins(allowed).check(request(Origin=origin), scheme)
    except Forbidden:
        return False
    return True


# --- Origin --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        ("http://server.example:8000", (), True),
        ("HTTP://Server.Example:8000", (), True),
        ("https://server.example:8000", (), False),
        ("http://server.example", (), False),
        ("http://server.example:8001", (), False),
        ("http://server.example:8000.evil.example", (), False),
        ("http://evil@server.example:8000", (), False),
        ("http://server.example:8000/", (), False),
        ("null", (), False),
        ("", (), False),
        (CHAT, (CHAT,), True),
        (f"{CHAT}:443", (CHAT,), True),
        (f"{CHAT}:8443", (CHAT,), False),
        ("http://chat.example", (CHAT,), False),
        ("https://sub.chat.example", (CHAT,), False),
        ("https://chat.example.evil.example", (CHAT,), False),
        ("https://evil.example", ("*",), True),
        ("null", ("*",), True),
    ],
)
def test_origins_are_exact(origin: str, allowed: tuple[str, ...], passes: bool) -> None:
    """Scheme, host and port must all be those of the server or of a named origin; a port may be the scheme's own."""
    assert knows(origin, *allowed) is passes


hosts = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z]{2,6}){0,2}", fullmatch=True)
origins = st.builds(
    lambda scheme, host, port: f"{scheme}://{host}{port}",
    st.sampled_from(["http", "https", "HTTP", "ftp"]),
    hosts,
    st.sampled_from(["", ":80", ":443", ":8000"]),
)


@given(origins, origins)
def test_any_two_origins(origin: str, allowed: str) -> None:
    """An origin passes where the other is the same one, as another reader of URLs has it, and nowhere else."""

    def read(text: str) -> tuple[str, str | None, int | None]:
        parts = urlsplit(text)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)

    assert knows(origin, allowed) is (read(origin) == read(allowed))


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60))
def test_any_text_is_no_origin(text: str) -> None:
    """Whatever is sent as an Origin raises nothing but a refusal, and is not let in by chance."""
    assert knows(text, CHAT) is (text.lower() in (CHAT, f"{CHAT}:443", "http://server.example:8000"))


async def test_origin_is_checked_before_the_upgrade(serve: Serve) -> None:
    """A foreign page's socket is refused over HTTP, with a good credential too, and its posts are."""
    served = await serve("graphs:echo", auth=TOKENS, server={"allowed_origins": [CHAT]})
    for token in (None, ALICE):
        with pytest.raises(WSServerHandshakeError) as refused:
            await connect(served, token, headers={"Origin": "https://evil.example"})
        assert refused.value.status == 403
    assert (await call(served, "POST", "/threads", ALICE, {}, Origin="https://evil.example"))[0] == 403
    await attach(served, ALICE, headers={"Origin": CHAT})
    await attach(served, ALICE, headers={"Origin": served.url})
    await attach(served, ALICE)


# --- CORS ----------------------------------------------------------------------------------------


async def preflight(served: Served, origin: str) -> tuple[int, Any]:
    headers = {"Origin": origin, "Access-Control-Request-Method": "PATCH"}
    async with served.session.options(f"{served.url}/threads/x", headers=headers) as response:
        return response.status, response.headers


async def test_cors_is_from_the_same_list(serve: Serve) -> None:
    """A named origin may ask, with a token, and read answers and refusals; another is told nothing it could use."""
    served = await serve("graphs:echo", auth=TOKENS, server={"allowed_origins": [CHAT]})
    status, headers = await preflight(served, CHAT)
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, CHAT)
    assert "Authorization" in headers["Access-Control-Allow-Headers"]
    assert "PATCH" in headers["Access-Control-Allow-Methods"]
    status, headers = await preflight(served, "https://evil.example")
    assert status == 403
    assert not any(name.startswith("Access-Control") for name in headers)
    for origin, told in ((CHAT, CHAT), ("https://evil.example", None)):
        for sent in ({**bearer(ALICE)}, {}):
            async with served.session.get(f"{served.url}/threads/x", headers={**sent, "Origin": origin}) as response:
                assert response.headers.get("Access-Control-Allow-Origin") == told
                assert "Origin" in response.headers["Vary"]


async def test_any_origin_needs_a_token(serve: Serve) -> None:
    """With `*` every page may connect that brings a token; a cookie, which goes with what any page does, is none."""
    served = await serve("graphs:echo", auth=TOKENS, server={"allowed_origins": ["*"]})
    evil, cookie = {"Origin": "https://evil.example"}, {"Cookie": f"threadwire_token={ALICE}"}
    await attach(served, ALICE, headers=evil)
    assert await (await connect(served, headers={**evil, **cookie})).closed() == 4401
    assert (await call(served, "POST", "/threads", None, {}, **evil, **cookie))[0] == 401
    await attach(served, headers={**cookie, "Origin": served.url})
    async with served.session.get(f"{served.url}/threads/x", headers={**evil, **bearer(ALICE)}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "https://evil.example"
        assert "Access-Control-Allow-Credentials" not in response.headers


# --- Host ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""])
async def test_without_auth_only_names_of_this_machine(serve: Serve, host: str) -> None:
    """With mode none a name of somebody else's that points here is refused; with a token nobody has to look."""
    served = await serve("graphs:echo")
    assert (await call(served, "GET", "/protocol.json", Host=host))[0] in (400, 403)
    closed = await serve("graphs:echo", auth=TOKENS, database=served.database.with_name("other.db"))
    if host:
        assert (await call(closed, "GET", "/protocol.json", Host=host))[0] == 200


# --- proxies -------------------------------------------------------------------------------------


class Peer:
    """A transport whose other end is at that address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.address, 1234) if name == "peername" else default


def client(peer: str, networks: list[str], **headers: str) -> tuple[str, str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    came = make_mocked_request("GET", "/", headers=sent).clone(remote=peer)
    return Proxies(networks).client(came)


@pytest.mark.parametrize(
    ("peer", "networks", "forwarded", "found"),
    [
        ("203.0.113.9", [], "198.51.100.1", "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.0/8"], "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.0/8"], "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.0/8"], "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.0/8"], "6.6.6.6, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.0/8"], "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", ["10.0.0.0/8"], "6.6.6.6, unknown", "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.0/8"], "198.51.100.1:5000", "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.0/8"], "[2001:db8::1]:5000", "2001:db8::1"),
        ("::ffff:10.0.0.1", ["10.0.0.0/8"], "2001:db8::1", "2001:db8::1"),
        ("::1", ["::1"], "", "::1"),
    ],
)
def test_whose_word_is_taken(peer: str, networks: list[str], forwarded: str, found: str) -> None:
    """The client's address is what the last proxy that is trusted was called from; the rest may be made up."""
    assert client(peer, networks, X_Forwarded_For=forwarded)[0] == found


@given(
    st.lists(st.ip_addresses().map(str) | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])), max_size=4)
)
def test_a_stranger_cannot_say_who_they_are(forwarded: list[str]) -> None:
    """Whatever a client that is no proxy of ours claims, its address is the one it has."""
    claims = {"X_Forwarded_For": ", ".join(forwarded), "X_Forwarded_Proto": "https"}
    assert client("203.0.113.9", ["10.0.0.0/8"], **claims) == ("203.0.113.9", "http")
    # And behind one, what it claims comes before what the proxy adds.
    behind = {"X_Forwarded_For": ", ".join([*forwarded, "203.0.113.9"])}
    assert client("10.0.0.1", ["10.0.0.0/8"], **behind)[0] == "203.0.113.9"


async def test_behind_a_proxy_the_origin_is_https(serve: Serve) -> None:
    """Where a trusted proxy ends TLS, the server's own origin is https; from anybody else that is not believed."""
    by_address = {"mode": "custom", "handler": "auth_handlers:by_address"}
    trusting = await serve("owned_graphs:who", auth=by_address, server={"trusted_proxies": ["127.0.0.1"]})
    origin = trusting.url.replace("http://", "https://")
    proxied = {"Origin": origin, "X-Forwarded-Proto": "https", "X-Forwarded-For": "6.6.6.6, 198.51.100.7"}
    socket = await attach(trusting, headers=proxied)
    await socket.turn()
    assert "198.51.100.7" in socket.of("message")[-1]["message"]["content"]
    other = await serve("graphs:echo", auth=TOKENS, database=trusting.database.with_name("other.db"))
    with pytest.raises(WSServerHandshakeError):
        await connect(other, ALICE, headers={**proxied, "Origin": other.url.replace("http://", "https://")})


# --- TLS -----------------------------------------------------------------------------------------


async def test_tls(servers: Servers, tmp_path: Path) -> None:
    """With `server.tls` the server shows its certificate, over which sockets and requests go."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    server = servers("tls")
    await server.launch("--port", "0", server__tls=f'{{"cert": "{tmp_path / "both.pem"}"}}')
    from harness import eventually

    line = await eventually(lambda: "https://127.0.0.1:" in server.stdout + server.stderr, "it serves")
    assert line
    said = server.stdout + server.stderr
    url = "https://127.0.0.1:" + said.partition("https://127.0.0.1:")[2].partition('"')[0]
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 200
        async with session.ws_connect(f"{url}/ws") as ws:
            assert '"ready"' in (await ws.receive()).data


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_certificate_that_is_none(tmp_path: Path, content: str | None) -> None:
    """A certificate that cannot be used is a line that names its file."""
    path = tmp_path / "cert.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartupError, match=r"server\.tls: .*cert\.pem cannot be used"):
        context(str(path), None)


# --- the page ------------------------------------------------------------------------------------


async def test_the_pages_headers(serve: Serve) -> None:
    """The page may do what this server gave it and no more, and is in no other page's frame."""
    served = await serve("graphs:echo", auth=TOKENS)
    for path in ("/", "/client/threadwire.js"):
        async with served.session.get(f"{served.url}{path}") as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["Referrer-Policy"] == "same-origin"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
    async with served.session.get(f"{served.url}/healthz") as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
