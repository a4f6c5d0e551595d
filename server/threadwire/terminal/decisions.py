"""A person's decision on a tool call, as it is asked for and typed; pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from threadwire.approvals import Action

_WORDS = {"y": "approve", "yes": "approve", "n": "reject", "no": "reject"}
_MEANING = {
    "approve": "y calls it",
    "reject": "n does not, n WHY says why",
    "edit": 'edit {"name": value} changes arguments and calls it',
    "respond": "respond TEXT is its result instead",
}


def question_of(action: Action, number: int, of: int) -> str:
    """What is asked, as Markdown: the ``number``-th of so many calls."""
    place = f" ({number} of {of})" if of > 1 else ""
    arguments = json.dumps(action.args, ensure_ascii=False, indent=2, default=str)
    return f"Call `{action.name}`?{place}\n\n```json\n{arguments}\n```"


def hint_of(action: Action) -> str:
    """What may be typed."""
    return "; ".join(meaning for kind, meaning in _MEANING.items() if kind in action.allowed)


def decision_of(action: Action, text: str) -> dict[str, Any]:
    """What was typed, as LangChain has it.

    Raises:
        ValueError: it is no decision, or none that this call takes; a sentence.
    """
    first, _, rest = text.strip().partition(" ")
    word = first.lower().rstrip(",.:;!")
    kind, rest = _WORDS.get(word, word), rest.strip()
    read = _READ.get(kind)
    if kind not in action.allowed or read is None or (kind == "approve" and rest):
        raise ValueError(f"that is no decision: {hint_of(action)}")
    return {"type": kind, **read(action, rest)}


def _reason(_action: Action, rest: str) -> dict[str, Any]:
    return {"message": rest} if rest else {}


def _result(_action: Action, rest: str) -> dict[str, Any]:
    if not rest:
        raise ValueError("respond needs the text that the model gets as the result")
    return {"message": rest}


def _edit(action: Action, rest: str) -> dict[str, Any]:
    try:
        changed = json.loads(rest)
    except ValueError:
        changed = None
    if not isinstance(changed, dict):
        raise ValueError('edit needs the arguments to change, as JSON: edit {"name": value}')  # noqa: TRY004 -- typed text
    return {"edited_action": {"name": action.name, "args": {**action.args, **changed}}}


_READ: Mapping[str, Callable[[Action, str], dict[str, Any]]] = {
    "approve": lambda _action, _rest: {},
    "reject": _reason,
    "respond": _result,
    "edit": _edit,
}
