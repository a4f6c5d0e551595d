"""The browser client: the page at ``/`` and what it is made of, below ``/client/``.

Served are the files that were in the client's folder when the server started, by their names and by no other path, so
that there is no way out of it. What the page may do is in ``POLICY``: nothing but what this server gave it, no script
or style in its text, no text made into markup but by the one library that cleans it. Knows no threads.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

#: ``data:`` and ``blob:`` are images the user has put into a message; images elsewhere would tell their host who reads.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked again each time, and answered with 304 where nothing has changed: after an upgrade no old script
    # meets a new one.
    "Cache-Control": "no-cache",
}
#: What a client's folder may hold, and as what it is served; the system's own table differs from machine to machine.
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".ts": "text/plain",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


def client_folder() -> Path:
    """Where the client is: in the installed package, or beside ``server/`` in a checkout."""
    here = Path(__file__).parent
    packed = here / "client_demo"
    return packed if packed.is_dir() else here.parent.parent / "client_demo"


class PageRoutes:
    """The handlers, for the files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink() and path.suffix in _TYPES
        }

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register them."""
        router.add_get("/", self.page)
        router.add_get("/client/{path:.+}", self.file)

    async def page(self, _request: web.Request) -> web.StreamResponse:
        """The page."""
        return self._respond("index.html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """One of its files."""
        return self._respond(request.match_info["path"])

    def _respond(self, name: str) -> web.StreamResponse:
        path = self._files.get(name)
        if path is None or not path.is_file():
            raise web.HTTPNotFound
        response = web.FileResponse(path, headers=HEADERS)
        response.content_type = _TYPES[path.suffix]
        response.charset = "utf-8"
        return response
