"""``GET /openapi.json``: every HTTP route of the server as an OpenAPI 3.1 document.

What a route takes and gives is in ``operations``, the shapes in ``schemas``; bodies, commands and frames are those the
code itself checks with. Which routes there are is asked of the application's router, so one that is not served (the
metrics, where they have a listener of their own) is not described, and one that nobody described is missing here,
which a test tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

import threadwire
from threadwire.openapi.operations import OPERATIONS, Operation
from threadwire.openapi.schemas import SCHEMAS
from threadwire.protocol import encode

#: Any route may answer these: the guards in front of all of them (``auth``, ``limits``), and a fault of ours.
_ANYWHERE = {
    400: "Something in the request is not what it should be; the message says what was expected and what came",
    401: "No credential, or a bad or expired one",
    403: "Known, but not allowed; or an Origin or Host that may not",
    408: "The request did not come to its end in time",
    429: "Over a limit; the message says which",
    500: "A fault of the server's",
}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_RETRY_AFTER = {"Retry-After": {"description": "When to try again, in seconds", "schema": {"type": "string"}}}


class OpenApiRoutes:
    """The handler."""

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register it."""
        self._router = router
        router.add_get("/openapi.json", self.document)

    async def document(self, _request: web.Request) -> web.Response:
        """The document of what this server serves."""
        body = encode(document(served(self._router)))
        return web.Response(body=body, content_type="application/json")


def served(router: web.UrlDispatcher) -> list[tuple[str, str]]:
    """Method and path of each route; HEAD goes without saying where there is GET."""
    return [
        (route.method, route.resource.canonical)
        for route in router.routes()
        if route.method != "HEAD" and route.resource is not None
    ]


def document(routes: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The OpenAPI document of those routes (method, path) that are described."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path in routes:
        operation = OPERATIONS.get(f"{method} {path}")
        if operation is not None:
            paths.setdefault(path, {})[method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "threadwire",
            "version": threadwire.__version__,
            "description": "The HTTP routes beside the WebSocket. The socket's own messages are in /protocol.json.",
        },
        "servers": [{"url": "/"}],
        # With auth.mode none there is nobody to ask.
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.description:
        found["description"] = operation.description
    if operation.parameters:
        found["parameters"] = list(operation.parameters)
    if operation.body is not None:
        content = {"application/json": {"schema": operation.body}}
        found["requestBody"] = {"required": operation.body_required, "content": content}
    errors = {**_ANYWHERE, **operation.errors}
    answers = {str(status): _refusal(status, why) for status, why in errors.items() if status not in operation.answers}
    answers |= {str(status): answer for status, answer in operation.answers.items()}
    found["responses"] = dict(sorted(answers.items()))
    return found


def _refusal(status: int, why: str) -> dict[str, Any]:
    found: dict[str, Any] = {"description": why, "content": _ERROR}
    if status == 400:
        # What is no HTTP at all (a line over 8,190 bytes) is refused before there is a request.
        found["content"] = {**_ERROR, "text/plain": {"schema": {"type": "string"}}}
    if status in (429, 503):
        found["headers"] = _RETRY_AFTER
    return found
