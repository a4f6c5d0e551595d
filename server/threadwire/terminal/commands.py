"""What is meant for this program and not for the model: a line that is one of these words, with a slash."""

from __future__ import annotations

from dataclasses import dataclass

HELP = (
    ("/help", "this"),
    ("/thread", "which conversation this is; /thread ID goes on with another"),
    ("/new", "a new conversation"),
    ("/history", "the messages before those shown"),
    ("/skip", "drop the question that waits for an answer"),
    ("/quit", "leave; so does Ctrl-D"),
    ("Alt-Enter", "a new line in the message (also Esc, then Enter)"),
    ("Ctrl-C", "stop the answer; at the prompt: clear the line, or leave"),
    ("//…", "a message that begins with a slash and is none of these words goes as it is; // is sent as /"),
)
_NAMES = frozenset(name for name, _ in HELP if name.startswith("/") and name[1:].isalpha())


@dataclass(frozen=True, slots=True)
class Command:
    """``/name argument``."""

    name: str
    argument: str


def read(text: str) -> Command | None:
    """The command that a text is, if it is one; only ``/thread`` has an argument."""
    name, _, argument = text.strip().partition(" ")
    if name not in _NAMES or "\n" in text.strip() or (argument and name != "/thread"):
        return None
    return Command(name, argument.strip())


def unescaped(text: str) -> str:
    """The text to send: ``//help`` says ``/help``."""
    return text[1:] if text.startswith("//") else text
