"""What schemathesis cannot know of the routes from their document: loaded into its process by ``test_openapi.py``."""

from __future__ import annotations

import uuid
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Take out what is refused for a reason that no schema has.

    A context of a graph that takes none, a thread that is not the path's, an id that another run or message has.
    """
    body: Any = case.body
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(body, dict):
        return
    body.pop("context", None)
    for name in ("run_id", "message_id"):
        if name in body:
            body[name] = str(uuid.uuid4())
    for name in ("checkpoint", "before"):
        if isinstance(body.get(name), dict):
            body[name].pop("thread_id", None)
