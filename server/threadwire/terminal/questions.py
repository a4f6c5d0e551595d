"""What the graph asks a person, one question after the other; pure."""

from __future__ import annotations

import json
from typing import Any

from threadwire.protocol import Interrupt

HINT = "answer with text or a JSON value; /skip drops it, Ctrl-D leaves it for later"


class Questions:
    """The open interrupts of a thread, and the answers given so far: they are sent when there is one for each."""

    def __init__(self) -> None:
        self._open: list[Interrupt] = []
        self._answers: dict[str, Any] = {}

    def put(self, interrupts: list[Interrupt]) -> None:
        """These are open now; the same ones again keep their answers."""
        if [interrupt.id for interrupt in interrupts] != [interrupt.id for interrupt in self._open]:
            self._open, self._answers = list(interrupts), {}

    @property
    def next(self) -> Interrupt | None:
        """The first that has no answer."""
        return next((interrupt for interrupt in self._open if interrupt.id not in self._answers), None)

    def answer(self, text: str) -> dict[str, Any] | None:
        """Answer it; gives all the answers once it was the last."""
        if (asked := self.next) is not None:
            self._answers[asked.id] = value_of(text)
        if self.next is not None:
            return None
        answers, self._answers = self._answers, {}
        return answers


def value_of(text: str) -> Any:
    """What a person means: a JSON value, where it is one (``true``, ``42``, ``{"a": 1}``, ``"42"``), else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def as_markdown(value: Any) -> str:
    """What an interrupt asks: text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    return f"```json\n{json.dumps(value, ensure_ascii=False, indent=2, default=str)}\n```"
