"""A thread's log and its cursors: whatever happens in whatever order, a reader has all of it or knows what it lost."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from threadwire.errors import Gap
from threadwire.filters import Filter, Origin
from threadwire.log import ENTRY_OVERHEAD, MAX_MERGED_CHARS, Cursor, Log

ORIGINS = [
    Origin("chat_model", "model", ()),
    Origin("chat_model", "model", ("inner",)),
    Origin("tool", "add", ()),
    None,
]
FILTERS = [
    None,
    Filter(),
    Filter(include_types=frozenset({"tool"})),
    Filter(exclude_types=frozenset({"chat_model"})),
    Filter(exclude_tags=frozenset({"inner"})),
    Filter(include_names=frozenset({"nobody"})),
]
TEXTS = ("token", "reasoning")


def token(
    text: str, *, kind: str = "token", message_id: str = "m", run_id: str = "r", node: str = "n"
) -> dict[str, Any]:
    return {"type": kind, "run_id": run_id, "message_id": message_id, "node": node, "content": text}


def other(n: int, size: int = 0) -> dict[str, Any]:
    return {"type": "custom", "run_id": "r", "name": "n", "data": [n, "x" * size]}


@dataclass
class Reader:
    """A cursor, and what it must have seen by now."""

    cursor: Cursor
    #: Everything after this was promised to it.
    start: int
    taken: list[bytes] = field(default_factory=list)
    #: (first lost, first it goes on from), as its gaps said.
    gaps: list[tuple[int, int]] = field(default_factory=list)


class LogMachine(RuleBasedStateMachine):
    """The log beside a list of all that was ever appended."""

    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.max_bytes = 0
        self.log = Log("e", 0)
        #: By number: what was appended under it, in order, and where it came from.
        self.appended: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self.origins: dict[int, Origin | None] = {}
        #: By number: its bytes, once anybody has seen them.
        self.bytes: dict[int, bytes] = {}
        self.open: list[Reader] = []
        self.count = 0

    # --- what can happen ---

    @precondition(lambda self: not self.log.last)
    @rule(max_bytes=st.sampled_from([1, 800, 2000, 10_000, 200_000]))
    def bound(self, max_bytes: int) -> None:
        for reader in self.open:
            reader.cursor.close()
        self.open.clear()
        self.max_bytes = max_bytes
        self.log = Log("e", max_bytes)

    def append(self, frame: dict[str, Any], origin: Origin | None) -> None:
        kept = json.loads(json.dumps(frame))
        before = self.log.last
        seq = self.log.append(frame, origin)
        assert seq in (before, before + 1)
        assert seq == self.log.last
        if seq == before:
            assert self.origins[seq] == origin
            assert {**self.appended[seq][0], "content": ""} == {**kept, "content": ""}, "only what is alike merges"
            assert seq not in self.bytes, "an entry that was read must not change"
        self.origins[seq] = origin
        self.appended[seq].append(kept)
        if self.max_bytes:
            # One entry may be larger than the bound: the newest.
            assert self.log.bytes <= self.max_bytes or self.log.first == self.log.last

    @rule(
        text=st.text(max_size=6),
        kind=st.sampled_from(TEXTS),
        source=st.sampled_from([*2 * [("m", "r", "x")], ("n", "r", "x"), ("m", "s", "x"), ("m", "r", "y")]),
        origin=st.sampled_from(ORIGINS),
        times=st.sampled_from([1, 1, 2, 5]),
    )
    def tokens(self, text: str, kind: str, source: tuple[str, str, str], origin: Origin | None, times: int) -> None:
        message_id, run_id, node = source
        for _ in range(times):
            self.append(token(text, kind=kind, message_id=message_id, run_id=run_id, node=node), origin)

    @rule(size=st.sampled_from([4000, MAX_MERGED_CHARS, MAX_MERGED_CHARS + 1]), letter=st.sampled_from("aé\n"))
    def long_token(self, size: int, letter: str) -> None:
        self.append(token(letter * size), ORIGINS[0])

    @rule(size=st.sampled_from([0, 10, 500, 5000]), origin=st.sampled_from(ORIGINS))
    def frame(self, size: int, origin: Origin | None) -> None:
        self.count += 1
        self.append(other(self.count, size), origin)

    @precondition(lambda self: self.log.last < 1000)
    @rule(n=st.integers(600, 800))
    def many(self, n: int) -> None:
        """Enough for the list to be compacted."""
        for _ in range(n):
            self.count += 1
            self.append(other(self.count), None)

    @rule(target=readers, back=st.integers(0, 40), which=st.sampled_from(FILTERS))
    def cursor(self, back: int, which: Filter | None) -> Reader:
        after = max(0, self.log.last - back)
        reader = Reader(self.log.cursor(after), after)
        reader.cursor.filter = which
        self.open.append(reader)
        return reader

    @rule(reader=readers, max_bytes=st.sampled_from([1, 50, 1000, 65536]), until=st.none() | st.integers(0, 10))
    def take(self, reader: Reader, max_bytes: int, until: int | None) -> None:
        if reader in self.open:
            limit = None if until is None else reader.cursor.position + until
            self.do_take(reader, max_bytes, limit)

    @rule(reader=readers)
    def take_all(self, reader: Reader) -> None:
        if reader in self.open:
            while reader.cursor.position < self.log.last:
                self.do_take(reader, 65536, None)

    @rule(reader=readers, which=st.sampled_from(FILTERS))
    def refilter(self, reader: Reader, which: Filter | None) -> None:
        reader.cursor.filter = which

    @rule(reader=consumes(readers))
    def close(self, reader: Reader) -> None:
        reader.cursor.close()
        if reader in self.open:
            self.open.remove(reader)

    @rule(back=st.integers(0, 30))
    def trim(self, back: int) -> None:
        seq = max(0, self.log.last - back)
        self.log.trim_to(seq)
        assert self.log.first > seq

    # --- what must be so ---

    def do_take(self, reader: Reader, max_bytes: int, until: int | None) -> None:
        before, first = reader.cursor.position, self.log.first
        if before < first - 1:
            with pytest.raises(Gap) as caught:
                reader.cursor.take(max_bytes, until)
            assert (caught.value.requested, caught.value.earliest) == (before + 1, first)
            assert reader.cursor.position == first - 1
            reader.gaps.append((before + 1, first))
            return
        taken = reader.cursor.take(max_bytes, until)
        passed = range(before + 1, reader.cursor.position + 1)
        assert until is None or reader.cursor.position <= max(until, before)
        visible = [seq for seq in passed if self.sees(reader, seq)]
        assert [json.loads(data)["seq"] for data in taken] == visible, "in order, none twice, none left out"
        if until is None and max_bytes and first <= self.log.last:
            assert passed or before == self.log.last, "it gets on"
        assert sum(map(len, taken[:-1])) < max_bytes
        for seq, data in zip(visible, taken, strict=True):
            assert self.bytes.setdefault(seq, data) == data, "the same bytes for everybody, always"
            self.same(seq, json.loads(data))
        for seq in passed:
            # Passed, so sealed: nobody may see it grow, also where this reader does not see it at all.
            self.bytes.setdefault(seq, self.peek(seq))
        reader.taken.extend(taken)

    def sees(self, reader: Reader, seq: int) -> bool:
        origin, which = self.origins[seq], reader.cursor.filter
        return origin is None or which is None or which.passes(origin)

    def same(self, seq: int, found: dict[str, Any]) -> None:
        appended = self.appended[seq]
        wanted = {**appended[0], "seq": seq}
        if wanted["type"] in TEXTS:
            wanted["content"] = "".join(one["content"] for one in appended)
        assert found == wanted

    def peek(self, seq: int) -> bytes:
        cursor = self.log.cursor(seq - 1)
        [data] = cursor.take(1, seq)
        cursor.close()
        return data

    @invariant()
    def bytes_are_true(self) -> None:
        live = self.log._entries[self.log._start :]
        assert self.log.bytes == sum(entry.size for entry in live)
        for entry in live[:-1]:
            assert entry.size == ENTRY_OVERHEAD + len(entry.data)
        assert not any(entry.data for entry in self.log._entries[: self.log._start]), "trimmed means freed"
        assert len(self.log._entries) == len(self.log._seqs) <= 2 * len(live) + 600

    def teardown(self) -> None:
        """Read to the end: each reader has everything it may see, or its gaps cover it."""
        for reader in self.open:
            reader.cursor.filter = None
            while reader.cursor.position < self.log.last:
                self.do_take(reader, 65536, None)
            assert reader.cursor.take() == []
            for requested, earliest in reader.gaps:
                assert reader.start < requested < earliest


TestLog = LogMachine.TestCase
TestLog.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- one by one -----------------------------------------------------------------------------------


def contents(frames: list[bytes]) -> list[str]:
    return [json.loads(data)["content"] for data in frames]


def test_unread_tokens_merge() -> None:
    """A burst that nobody has read is one frame; a reader that keeps up gets each token as it came."""
    log = Log("e", 0)
    fast = log.cursor(0)
    seen = []
    for text in ("a", "b", "c"):
        log.append(token(text))
        seen += contents(fast.take())
    assert seen == ["a", "b", "c"]
    for text in ("d", "e", "f"):
        log.append(token(text))
    assert contents(fast.take()) == ["def"]
    assert contents(log.cursor(0).take()) == ["a", "b", "c", "def"]


def test_a_filter_seals_what_it_hides() -> None:
    """A reader that passes the open frame without seeing it seals it all the same: numbers say where readers are."""
    log = Log("e", 0)
    blind = log.cursor(0)
    blind.filter = Filter(exclude_types=frozenset({"chat_model"}))
    log.append(token("a"), ORIGINS[0])
    assert blind.take() == []
    assert blind.position == 1
    assert log.append(token("b"), ORIGINS[0]) == 2
    assert contents(log.cursor(0).take()) == ["a", "b"]


def test_a_sealed_frame_takes_no_more() -> None:
    """What a history tells of the newest frame is all that comes under its number: the rest is a frame of its own."""
    log = Log("e", 0)
    log.append(token("told by "))
    log.seal()
    seen = log.last
    log.append(token("the rest"))
    [rest] = map(json.loads, log.cursor(seen).take())
    assert (rest["content"], rest["seq"] > seen) == ("the rest", True)


def test_merged_frames_have_a_limit() -> None:
    """However long nobody reads, no frame grows beyond the limit, and no text is lost."""
    log = Log("e", 0)
    for n in range(20_000):
        log.append(token(f"{n} "))
    frames = contents(log.cursor(0).take(10**9))
    assert max(map(len, frames)) <= MAX_MERGED_CHARS
    assert len(frames) < 10
    assert "".join(frames) == "".join(f"{n} " for n in range(20_000))


def test_the_newest_frame_stays() -> None:
    """A frame larger than the whole bound is still given to its readers; the others make room."""
    log = Log("e", 1000)
    log.append(other(1))
    reader = log.cursor(1)
    log.append(other(2, 5000))
    assert log.first == log.last == 2
    assert json.loads(reader.take()[0])["data"][0] == 2
    log.append(other(3))
    assert log.bytes <= 1000


def test_readers_that_do_not_read_cost_an_append_nothing() -> None:
    """A cursor is woken once, and then not again before it has looked."""
    log = Log("e", 0)
    woken = []
    cursor = log.cursor(0, lambda: woken.append(1))
    for n in range(5):
        log.append(other(n))
    assert len(woken) == 1
    assert len(cursor.take()) == 5
    log.append(other(6))
    log.append(other(7))
    assert len(woken) == 2
    cursor.take()
    cursor.close()
    log.append(other(8))
    assert len(woken) == 2


async def test_a_cancelled_read_loses_nothing() -> None:
    """However often a read is given up while it waits, the next one goes on where the last frame was."""
    log = Log("e", 0)
    cursor = log.cursor(0)
    seen: list[int] = []
    for n in range(50):
        reading = asyncio.create_task(cursor.read())
        await asyncio.sleep(0)
        if n % 3 == 0:
            # Given up before anything comes.
            reading.cancel()
            await asyncio.wait({reading})
        log.append(other(n))
        if n % 3 == 1:
            # Given up in the moment it was woken.
            reading.cancel()
        await asyncio.wait({reading})
        if not reading.cancelled():
            seen += [json.loads(data)["data"][0] for data in reading.result()]
    seen += [json.loads(data)["data"][0] for data in cursor.take()]
    assert seen == list(range(50))


async def test_read_waits_for_what_its_filter_lets_through() -> None:
    """A read is not ended by frames that are hidden from it."""
    log = Log("e", 0)
    cursor = log.cursor(0)
    cursor.filter = Filter(include_types=frozenset({"tool"}))
    reading = asyncio.create_task(cursor.read())
    for n in range(3):
        log.append(token(str(n)), ORIGINS[0])
        await asyncio.sleep(0)
    assert not reading.done()
    log.append(other(4), ORIGINS[2])
    [data] = await reading
    assert json.loads(data)["seq"] == 4


async def test_read_raises_the_gap() -> None:
    """A reader that fell off the log's tail is told what it lost, once, and goes on from there."""
    log = Log("e", 2000)
    cursor = log.cursor(0)
    for n in range(100):
        log.append(other(n))
    with pytest.raises(Gap) as caught:
        await cursor.read()
    assert (caught.value.requested, caught.value.earliest) == (1, log.first)
    assert [json.loads(data)["seq"] for data in await cursor.read()] == list(range(log.first, 101))
