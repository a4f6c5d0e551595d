"""The reader of a load run, frame by frame: what it may pass over, and what it must not call a violation."""

from __future__ import annotations

from typing import Any

import pytest

from threadwire.load.reader import Reader, View
from threadwire.load.recorder import Recorder
from threadwire.load.texts import compare_texts

READY: dict[str, Any] = {"type": "ready", "thread_id": "t", "epoch": "e", "seq": 0, "resume": "fresh", "run": None}


class Seen:
    """A reader with one run, and what it counted."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.answers: list[dict[str, Any]] = []
        self.reader = Reader("s", self.recorder, self.answers.append, timed=True)
        self.ended = False
        self.view = View("r", 1.0, self.end)
        self.reader.follow(self.view)
        self.take(READY)

    def end(self) -> None:
        self.ended = True

    def take(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            self.reader.take(frame, 2.0)

    @property
    def taken(self) -> dict[str, Any]:
        return self.recorder.take()


@pytest.fixture
def seen() -> Seen:
    return Seen()


def token(seq: int, content: str = "word ", message_id: str = "a") -> dict[str, Any]:
    return {"type": "token", "seq": seq, "run_id": "r", "message_id": message_id, "node": "n", "content": content}


def end(seq: int, **fields: Any) -> dict[str, Any]:
    return {"type": "run_finished", "seq": seq, "run_id": "r", "status": "completed", "error": None, **fields}


def test_a_turn_is_counted(seen: Seen) -> None:
    """Tokens, gaps and the first token's time come from the frames; numbers that jump are no violation."""
    seen.take(token(3, "one two "), token(9, "three"), end(20))
    taken = seen.taken
    assert (taken["tokens"], taken["violations"]) == (3, {})
    assert list(taken["latencies"]) == ["first_token", "gap"]
    assert taken["latencies"]["first_token"] == [(1_000_000, 1)]
    assert seen.ended
    assert seen.view.status == "completed"


def test_what_is_about_the_connection_has_no_number(seen: Seen) -> None:
    """``seq`` of ready, history and pong says how far the log is; frames of the log may still come below it."""
    seen.take({"type": "pong", "id": "1", "seq": 50}, {"type": "history", "id": "2", "messages": [], "seq": 60})
    seen.take(token(3))
    assert seen.taken["violations"] == {}
    assert [frame["type"] for frame in seen.answers] == ["ready", "pong", "history"]


def test_coming_back_goes_on_behind_what_was_read(seen: Seen) -> None:
    """After a cut, the query has the place; a replay from there is fine, a frame that was read is not."""
    seen.take(token(4))
    assert "after" not in seen.reader.query
    seen.reader.left(at_once=True)
    assert seen.reader.query == {"thread_id": "t", "after": "4", "epoch": "e"}
    seen.take({**READY, "seq": 7, "resume": "replayed"}, token(6))
    assert seen.taken["violations"] == {}
    seen.take(token(4))
    assert seen.taken["violations"] == {"seq_went_back": 1}


@pytest.mark.parametrize("ready", [{"resume": "gap"}, {"resume": "fresh"}, {"resume": "replayed", "seq": 2}])
def test_a_cut_that_loses_something(seen: Seen, ready: dict[str, Any]) -> None:
    """After a cut, anything but a replay that reaches our place is a gap; after a loss of theirs it is an error."""
    seen.take(token(4))
    seen.reader.left(at_once=True)
    seen.take({**READY, **ready})
    assert seen.taken["violations"] == {"resume_gap": 1}
    seen.take(token(5))
    seen.reader.left(at_once=False)
    seen.take({**READY, "resume": "gap", "seq": 9})
    taken = seen.taken
    assert (taken["violations"], taken["errors"]) == ({}, {"gap_after_loss": 1})


def test_frames_that_come_again_after_a_gap(seen: Seen) -> None:
    """After a gap a server goes on from its earliest frame: what was read before is passed over, and no violation."""
    seen.take(token(4, "one "), end(5), {**READY, "seq": 1000, "resume": "gap"})
    seen.take({"type": "gap", "requested": 6, "earliest": 3, "epoch": "e", "run": None}, token(4, "one "), end(5))
    assert "".join(seen.view.texts["a"]) == "one "
    assert seen.taken["violations"] == {}
    seen.reader.left(at_once=False)
    # A new epoch: numbers begin anew.
    seen.take({**READY, "epoch": "f", "seq": 2, "resume": "gap"}, {**token(1), "run_id": "x"})
    assert seen.taken["violations"] == {"foreign_frame": 1}


def test_a_slow_readers_gap(seen: Seen) -> None:
    """A gap in the middle is allowed: the text says nothing any more, and a run that is over is not waited for."""
    seen.take(token(4), {"type": "gap", "requested": 5, "earliest": 90, "epoch": "e", "run": {"run_id": "r"}})
    assert not seen.ended
    seen.take(token(90), {"type": "gap", "requested": 91, "earliest": 200, "epoch": "e", "run": None})
    assert seen.answers[-1]["type"] == "gap"
    assert not seen.ended
    seen.reader.settle()
    assert seen.view.status == "unheard"
    compare_texts("s", seen.reader.turns.values(), {"a": "something else"}, seen.recorder)
    taken = seen.taken
    assert (taken["violations"], taken["counts"]) == ({}, {"gaps": 2})


@pytest.mark.parametrize("frame", [end(201), token(201)])
def test_an_end_that_comes_after_the_gap(seen: Seen, frame: dict[str, Any]) -> None:
    """A run that nobody names at the gap may still have its end behind it: then it is no unheard one."""
    seen.take(token(4), {"type": "gap", "requested": 5, "earliest": 200, "epoch": "e", "run": None}, frame)
    seen.reader.settle()
    assert seen.view.status == ("completed" if frame["type"] == "run_finished" else None)


def test_what_replaces_tokens(seen: Seen) -> None:
    """A message, a removal, and the messages of a lost run take the place of what the tokens said."""
    whole = {"id": "a", "role": "assistant", "content": [{"type": "text", "text": "whole"}]}
    seen.take(token(1, "wh"), token(2, "gone", "b"), {"type": "message", "seq": 3, "message": whole})
    seen.take({"type": "messages_removed", "seq": 4, "run_id": "r", "message_ids": ["b"]})
    compare_texts("s", seen.reader.turns.values(), {"a": "whole"}, seen.recorder)
    lost = [{"id": "a", "role": "assistant", "content": "less"}, {"id": "u", "role": "user", "content": "hi"}]
    seen.take(end(5, status="lost", messages=lost))
    compare_texts("s", seen.reader.turns.values(), {"a": "less"}, seen.recorder)
    assert seen.taken["violations"] == {}


def test_texts_of_messages_nobody_keeps(seen: Seen) -> None:
    """Of several messages, those that the graph does not store are no mismatch; if it stores none, they are."""
    seen.take(token(1, "kept"), token(2, "thought", "b"), end(3))
    compare_texts("s", seen.reader.turns.values(), {"a": "kept"}, seen.recorder)
    assert seen.taken["violations"] == {}
    compare_texts("s", seen.reader.turns.values(), {}, seen.recorder)
    assert seen.taken["violations"] == {"token_mismatch": 1}
    compare_texts("s", seen.reader.turns.values(), {"a": "kepT"}, seen.recorder)
    assert "they part at 3: 't' / 'T'" in seen.taken["explanations"]["token_mismatch"][0]


def test_a_failed_run_is_an_error(seen: Seen) -> None:
    """A run that fails is counted by its error's code; that is no violation."""
    seen.take(end(1, status="failed", error={"code": "model_error", "message": "m"}))
    taken = seen.taken
    assert (taken["errors"], taken["violations"]) == ({"model_error": 1}, {})
