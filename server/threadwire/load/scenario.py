"""What the sessions say: one message, a script of conversations, or recorded ones again.

A script is YAML, a list of conversations under ``conversations``::

    conversations:
      - name: small talk
        weight: 3                    # three times as often as one of weight 1
        turns:
          - say: "hello, this is session {session}"
            think_seconds: 1.5       # before the next turn; default: --think
          - say: "tell me more"
            cancel_after_tokens: 20
          - respond: {approved: true}  # answers whatever the graph asks for
      - turns:
          - say: "one long answer, please"

A recording is JSON lines, ``{"session": "a", "at": 12.5, "content": "hi"}``: ``at`` is seconds, or a time in ISO 8601;
each message is sent at its time, whether or not the answer before it has come.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
import yaml

from threadwire.errors import StartupError


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of the user."""

    say: str = ""
    #: Before the next turn; None is the run's ``think_seconds``.
    think_seconds: float | None = None
    cancel_after_tokens: int | None = None
    #: The answer to every question the graph asks, instead of a message.
    respond: Any = None
    #: Of a recording: when it was said, in seconds after the recording's first message.
    at: float | None = None

    def text(self, session: int, turn: int) -> str:
        """What is said; ``{session}`` and ``{turn}`` are replaced by their numbers."""
        return self.say.replace("{session}", str(session)).replace("{turn}", str(turn))


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of one session, in order."""

    steps: tuple[Step, ...]
    name: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """All conversations. One of a single step is said as often as the run has turns."""

    conversations: tuple[Conversation, ...]
    recorded: bool = False

    def pick(self, chance: random.Random) -> Conversation:
        """One of them, by weight."""
        totals = list(accumulate(found.weight for found in self.conversations))
        return chance.choices(self.conversations, cum_weights=totals)[0]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Scenario:
        """Read what ``dataclasses.asdict`` made of it."""
        conversations = tuple(
            Conversation(**{**found, "steps": tuple(Step(**step) for step in found["steps"])})
            for found in value["conversations"]
        )
        return cls(conversations, value["recorded"])


def of_message(text: str) -> Scenario:
    """Every session says this, every turn."""
    return Scenario((Conversation((Step(text),)),))


def read_script(path: Path) -> Scenario:
    """Read a YAML script; raises ``StartupError`` that names what is wrong in it."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        conversations = tuple(_conversation(value) for value in found["conversations"])
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise StartupError(f"{path}: not a script of conversations: {error}") from error
    if not conversations:
        raise StartupError(f"{path}: a script needs at least one conversation")
    return Scenario(conversations)


def read_recording(path: Path, speed: float = 1.0) -> Scenario:
    """Read a recording, to be said ``speed`` times as fast; raises ``StartupError`` that names the line."""
    said: dict[str, list[tuple[float, str]]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
            said.setdefault(str(value["session"]), []).append((_seconds(value["at"]), str(value["content"])))
        except (ValueError, KeyError, TypeError) as error:
            expected = 'expected {"session": …, "at": …, "content": …}'
            raise StartupError(f"{path}, line {number}: {expected} ({error!r})") from error
    if not said:
        raise StartupError(f"{path}: there is nothing in it")
    first = min(at for messages in said.values() for at, _ in messages)
    return Scenario(tuple(_recorded(name, sorted(messages), first, speed) for name, messages in said.items()), True)


def _recorded(name: str, messages: Sequence[tuple[float, str]], first: float, speed: float) -> Conversation:
    return Conversation(tuple(Step(text, at=(at - first) / speed) for at, text in messages), name)


def _conversation(value: dict[str, Any]) -> Conversation:
    unknown = set(value) - {"name", "weight", "turns"}
    if unknown:
        raise ValueError(f"a conversation has name, weight and turns, and no {min(unknown)}")
    weight = float(value.get("weight", 1))
    steps = tuple(_step(turn) for turn in value["turns"])
    if not steps or weight <= 0:
        raise ValueError("a conversation needs turns, and a weight above 0")
    return Conversation(steps, str(value.get("name", "")), weight)


def _step(value: dict[str, Any]) -> Step:
    known = {"say", "think_seconds", "cancel_after_tokens", "respond"}
    if not isinstance(value, dict) or not set(value) <= known or ("say" in value) is ("respond" in value):
        raise ValueError(f"a turn has say or respond, and may have think_seconds and cancel_after_tokens; got {value}")
    return Step(**value)


def _seconds(value: float | str) -> float:
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else float(value)
