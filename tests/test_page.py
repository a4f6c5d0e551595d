"""The page's files, and no others; and what the page may do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from conftest import Serve
from harness import DEADLINE
from threadwire.page import PageRoutes, client_folder

WAYS_OUT = [
    "../pyproject.toml",
    "../../etc/passwd",
    "..%2fpyproject.toml",
    "%2e%2e/pyproject.toml",
    "%2e%2e%2fpyproject.toml",
    "..%252fpyproject.toml",
    "..\\pyproject.toml",
    "..%5cpyproject.toml",
    "./../pyproject.toml",
    "vendor/../../pyproject.toml",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "index.html/../../pyproject.toml",
    "index.html%00.js",
    "threadwire.js/",
    "C:/windows/win.ini",
    "",
    ".",
    "..",
]


async def say(port: int, path: str) -> bytes:
    """A request whose path nobody has made neat; the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(DEADLINE):
        answer = await reader.read()
    writer.close()
    return answer


async def test_there_is_no_way_out(serve: Serve) -> None:
    """However a path is written, it leads to a file of the client's folder or to nothing."""
    served = await serve("graphs:echo")
    port = URL(served.url).port
    assert port is not None
    for way in WAYS_OUT:
        answer = await say(port, f"/client/{way}")
        assert answer.split()[1] in (b"404", b"400"), (way, answer[:200])
        assert b"[project]" not in answer
        assert b"root:" not in answer


async def test_links_and_other_files_are_not_served(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """A symbolic link that leads out of the folder, and a file of a kind that no page needs, are not there."""
    folder = tmp_path / "client"
    folder.mkdir()
    secret = tmp_path / "secret.js"
    secret.write_text("secret")
    (folder / "index.html").write_text("page")
    (folder / "link.js").symlink_to(secret)
    (folder / "keys.env").write_text("secret")
    app = web.Application()
    PageRoutes(folder).add_to(app.router)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        for path, status in (
            ("/", 200),
            ("/client/index.html", 200),
            ("/client/link.js", 404),
            ("/client/keys.env", 404),
        ):
            async with session.get(url + path) as response:
                assert response.status == status, path
    finally:
        await runner.cleanup()


async def test_what_the_page_may_do(serve: Serve, session: aiohttp.ClientSession) -> None:
    """The page and each of its files: nothing from elsewhere, nothing inline, in no other page's frame, not sniffed."""
    served = await serve("graphs:echo")
    files = [path for path in client_folder().rglob("*") if path.suffix in (".html", ".js", ".css", ".svg")]
    assert files
    for path in ["/", *(f"/client/{file.relative_to(client_folder()).as_posix()}" for file in files)]:
        async with session.get(served.url + path) as response:
            assert response.status == 200, path
            policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
            assert policy["form-action"] == "'none'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert not any("unsafe" in value or "*" in value or "http" in value for value in policy.values())
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["Cache-Control"] == "no-cache"


async def test_no_answer_is_sniffed_or_kept(serve: Serve, session: aiohttp.ClientSession) -> None:
    """Answers and refusals of all other routes say what they are, not by which versions, and are not for a cache."""
    served = await serve("graphs:echo")
    await (await served.attach("t1")).turn("hello")
    for path in ("/threads/t1", "/threads/t1/export", "/threads/none", "/nothing", "/protocol.json", "/ws"):
        async with session.get(served.url + path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff", path
            assert response.headers["Cache-Control"] == "no-store", path
            assert response.headers["Server"] == "threadwire", path
    async with session.post(f"{served.url}/threads/t1/runs/stream", json={"content": "hi"}) as response:
        assert response.headers["Cache-Control"] == "no-store"
        await response.read()
