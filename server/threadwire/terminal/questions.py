"""What the graph asks a person, one question after the other; pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from threadwire.approvals import Action, actions_of
from threadwire.protocol import Interrupt
from threadwire.terminal.decisions import decision_of, hint_of, question_of
from threadwire.terminal.texts import brief, call

_HINT = "answer with text or a JSON value"
_LEAVE = "/skip drops it, Ctrl-D leaves it for later"


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to be answered: an interrupt, or one of the calls that it wants decisions on."""

    #: The interrupt's.
    id: str
    #: As Markdown.
    text: str
    #: What may be typed.
    hint: str
    action: Action | None = None

    def read(self, text: str) -> Any:
        """What was typed, as the answer; raises ``ValueError`` where it is none."""
        return value_of(text) if self.action is None else decision_of(self.action, text)


class Questions:
    """The open interrupts of a thread, and the answers given so far: they are sent when there is one for each."""

    def __init__(self) -> None:
        self._open: list[Interrupt] = []
        self._asked: list[Question] = []
        self._answers: list[Any] = []

    def put(self, interrupts: list[Interrupt]) -> None:
        """These are open now; the same ones again keep their answers."""
        if [interrupt.id for interrupt in interrupts] != [interrupt.id for interrupt in self._open]:
            self._open, self._answers = list(interrupts), []
            self._asked = [question for interrupt in interrupts for question in _questions(interrupt)]

    @property
    def next(self) -> Question | None:
        """The first that has no answer."""
        return self._asked[len(self._answers)] if len(self._answers) < len(self._asked) else None

    def answer(self, text: str) -> dict[str, Any] | None:
        """Answer it; gives the answers by interrupt once it was the last.

        Raises:
            ValueError: that is no answer to it; a sentence.
        """
        if (asked := self.next) is not None:
            self._answers.append(asked.read(text))
        if self.next is not None:
            return None
        answers, self._answers = self._answers, []
        responses: dict[str, Any] = {}
        for question, answer in zip(self._asked, answers, strict=True):
            if question.action is None:
                responses[question.id] = answer
            else:
                responses.setdefault(question.id, {"decisions": []})["decisions"].append(answer)
        return responses


def _questions(interrupt: Interrupt) -> list[Question]:
    actions = actions_of(interrupt.value)
    if actions is None:
        return [Question(interrupt.id, as_markdown(interrupt.value), f"{_HINT}; {_LEAVE}")]
    return [
        Question(interrupt.id, question_of(action, at + 1, len(actions)), f"{hint_of(action)}; {_LEAVE}", action)
        for at, action in enumerate(actions)
    ]


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


def as_line(value: Any) -> str:
    """What an interrupt asks, in short."""
    actions = actions_of(value)
    if actions is None:
        return brief(value)
    return "may it call " + ", ".join(call(action.name, action.args) for action in actions) + "?"
