"""Debian's nginx on this machine, with the file that is shipped."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from harness import DEADLINE, eventually

SHIPPED = Path(__file__).parent.parent / "deploy" / "nginx.conf"
HOW = "no nginx: `apt-get install nginx-light`"

#: The least that a file of a site needs around it.
_MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def find_nginx() -> str:
    """The program. Without it the test is skipped, loudly; in CI it fails."""
    # Not every user has sbin in the PATH.
    path = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(HOW)
        pytest.skip(HOW)
    return path


def free_port() -> int:
    """A port that is free now: both ends must know it before they start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Nginx:
    """A running one.

    Attributes:
        url: ``https://localhost:PORT``.
        ssl: What a client trusts it with.
    """

    def __init__(self, port: int, client: ssl.SSLContext) -> None:
        self.url = f"https://localhost:{port}"
        self.ssl = client


def site(folder: Path, port: int, server_port: int, timeout_seconds: int | None) -> str:
    """The shipped file with other ports, paths and, if given, timeouts of reading and sending: nothing else."""
    text = SHIPPED.read_text(encoding="utf-8")
    changes = {
        r"127\.0\.0\.1:8000": f"127.0.0.1:{server_port}",
        r"listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        r"/etc/ssl/threadwire|/var/log/nginx": str(folder),
    }
    if timeout_seconds is not None:
        changes[r"(?<=proxy_(?:read|send)_timeout )\d+s"] = f"{timeout_seconds}s"
    for pattern, new in changes.items():
        text, times = re.subn(pattern, new, text)
        assert times, f"the shipped file has no {pattern}"
    return text


@asynccontextmanager
async def nginx(
    folder: Path, port: int, server_port: int, *, timeout_seconds: int | None = None
) -> AsyncIterator[Nginx]:
    """Run it in ``folder``, in front of the server at ``server_port``."""
    program = find_nginx()
    authority, client = trustme.CA(), ssl.create_default_context()
    certificate = authority.issue_cert("localhost")
    authority.configure_trust(client)
    certificate.private_key_pem.write_to_path(folder / "privkey.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "fullchain.pem", append=number > 0)
    (folder / "site.conf").write_text(site(folder, port, server_port, timeout_seconds), encoding="utf-8")
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder), encoding="utf-8")
    with (folder / "nginx.err").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, "-p", str(folder), "-c", str(folder / "nginx.conf"), stdout=log, stderr=log
        )
    try:

        async def listens() -> bool:
            assert process.returncode is None, (folder / "nginx.err").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, "nginx listens")
        yield Nginx(port, client)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(DEADLINE):
            await process.wait()
