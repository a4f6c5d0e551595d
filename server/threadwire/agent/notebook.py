"""A notebook per user, in LangGraph's store: notes outlive their thread and are seen in all threads of their user.

The user is ``configurable.langgraph_auth_user`` of the run, as on the LangGraph Agent Server; without one all share the
notebook of ``local``.
"""

from __future__ import annotations

from typing import Any

from langchain.tools import ToolRuntime
from langchain_core.tools import ToolException
from langgraph.store.base import BaseStore

MAX_NOTES, MAX_TITLE, MAX_TEXT = 500, 100, 20_000
#: Whose notes these are where nobody is authenticated.
LOCAL_USER = "local"


async def save_note(title: str, text: str, runtime: ToolRuntime[Any, Any]) -> str:
    """Keep a note in the user's notebook, for later conversations too; a note of the same title is replaced."""
    store, notebook = _notebook(runtime)
    title = _checked_title(title)
    if len(text) > MAX_TEXT:
        raise ToolException(f"A note has at most {MAX_TEXT} characters; this one has {len(text)}.")
    is_new = await store.aget(notebook, title) is None
    if is_new and await store.asearch(notebook, limit=1, offset=MAX_NOTES - 1):
        raise ToolException(f"The notebook is full: {MAX_NOTES} notes. Delete one first.")
    await store.aput(notebook, title, {"text": text}, index=False)
    return f"{'Saved' if is_new else 'Replaced'} the note {title!r}."


async def read_note(title: str, runtime: ToolRuntime[Any, Any]) -> str:
    """Read a note of the user's notebook."""
    store, notebook = _notebook(runtime)
    found = await store.aget(notebook, _checked_title(title))
    if found is None:
        raise ToolException(f"There is no note {title!r}. {await _titles(store, notebook)}")
    return str(found.value["text"])


async def list_notes(runtime: ToolRuntime[Any, Any]) -> str:
    """List the titles of the notes in the user's notebook, the latest first."""
    return await _titles(*_notebook(runtime))


async def delete_note(title: str, runtime: ToolRuntime[Any, Any]) -> str:
    """Delete a note of the user's notebook."""
    store, notebook = _notebook(runtime)
    title = _checked_title(title)
    if await store.aget(notebook, title) is None:
        raise ToolException(f"There is no note {title!r}. {await _titles(store, notebook)}")
    await store.adelete(notebook, title)
    return f"Deleted the note {title!r}."


def _notebook(runtime: ToolRuntime[Any, Any]) -> tuple[BaseStore, tuple[str, str]]:
    if runtime.store is None:
        raise ToolException("There is no notebook here.")
    user = (runtime.config.get("configurable") or {}).get("langgraph_auth_user")
    identity = user.get("identity") if isinstance(user, dict) else getattr(user, "identity", user)
    # A store's labels have no full stops and are not empty; identities, mail addresses among them, may be anything.
    label = str(identity or LOCAL_USER).replace("%", "%25").replace(".", "%2E")
    return runtime.store, ("notes", label)


def _checked_title(title: str) -> str:
    title = " ".join(title.split())
    if not title or len(title) > MAX_TITLE:
        raise ToolException(f"A title has from 1 to {MAX_TITLE} characters.")
    return title


async def _titles(store: BaseStore, notebook: tuple[str, str]) -> str:
    titles = [item.key for item in await store.asearch(notebook, limit=MAX_NOTES)]
    return "Notes: " + "; ".join(titles) if titles else "The notebook is empty."
