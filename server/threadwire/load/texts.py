"""What was read of each message, held against what the thread keeps of it; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from threadwire.load.recorder import Recorder


class Seen(Protocol):
    """A turn, as one reader saw it."""

    run_id: str
    status: str | None
    resumed: bool
    holes: bool
    texts: dict[str, list[str]]


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content if block.get("type") == "text")


def compare_texts(name: str, turns: Iterable[Seen], stored: dict[str, str], recorder: Recorder) -> None:
    """Hold what reader ``name`` read of each turn against what the thread keeps: ``{message id: text}``."""
    for turn in turns:
        if turn.holes or turn.status in (None, "unheard"):
            continue
        said = {message_id: "".join(parts) for message_id, parts in turn.texts.items()}
        kept = {message_id: text for message_id, text in said.items() if message_id in stored}
        wrong = [message_id for message_id, text in kept.items() if text != stored[message_id]]
        if wrong or (said and not kept):
            breach = "resume_gap" if turn.resumed else "token_mismatch"
            recorder.violation(breach, f"{name}: run {turn.run_id}, " + _difference(said, stored, wrong))


def _difference(said: dict[str, str], stored: dict[str, str], wrong: list[str]) -> str:
    if not wrong:
        return f"message {next(iter(said))} of {len(next(iter(said.values())))} characters is not in the thread"
    ours, theirs = said[wrong[0]], stored[wrong[0]]
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return (
        f"message {wrong[0]}: {len(ours)} characters came, {len(theirs)} are kept; they part at {at}:"
        f" {ours[at : at + 30]!r} / {theirs[at : at + 30]!r}"
    )
