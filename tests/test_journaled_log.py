"""A log that waits for its journal: whatever is written, fails, is taken back or dies, a reader has all or a gap."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from threadwire.errors import Gap
from threadwire.log import Cursor, Log, Numbered

#: Numbers reserved ahead.
BLOCK = 6
PLACE = st.integers(0, 1_000_000)


@dataclass(eq=False)
class Reader:
    """A cursor, and whether it has been told that there is more."""

    cursor: Cursor
    woken: bool = False
    #: Whether it waits to be told: it has been given all there was.
    asleep: bool = True


@dataclass
class Disk:
    """What a journal has written."""

    floor: int = 0
    last: int = 0
    reserved: int = BLOCK
    frames: list[Numbered] = field(default_factory=list)


class JournaledLogMachine(RuleBasedStateMachine):
    """The log, beside what it was given and what is on its disk."""

    @initialize(max_bytes=st.sampled_from([0, 0, 1500, 4000]))
    def start(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.disk = Disk()
        self.log = Log("e", max_bytes, journaled=True)
        #: By number: the frame there, as far as it has been told; None where it was taken back.
        self.frames: dict[int, dict[str, Any] | None] = {}
        #: By number: its bytes, once anybody has had them.
        self.bytes: dict[int, bytes] = {}
        #: Numbers that were given, but for those that no reader can have had before their process died.
        self.used: set[int] = set()
        self.promises: set[int] = set()
        self.readers: list[Reader] = []
        self.count = 0

    # --- what is told ---

    def append(self, frame: dict[str, Any]) -> None:
        kept = json.loads(json.dumps(frame))
        before = self.log.last
        seq = self.log.append(frame)
        if seq == before:
            told = self.frames[seq]
            assert told is not None
            assert seq not in self.bytes, "an entry that was read must not change"
            told["content"] += kept["content"]
        else:
            assert seq > max(self.used, default=0), "no number means two frames"
            self.frames[seq] = kept
            self.used.add(seq)
            if kept["type"] == "run_started":
                self.promises.add(seq)

    @rule(text=st.text(max_size=3), message_id=st.sampled_from("mmn"))
    def token(self, text: str, message_id: str) -> None:
        self.append({"type": "token", "run_id": "r", "message_id": message_id, "node": "n", "content": text})

    @rule(size=st.sampled_from([0, 10, 800]))
    def other(self, size: int) -> None:
        self.count += 1
        self.append({"type": "custom", "run_id": "r", "name": "n", "data": [self.count, "x" * size]})

    @rule()
    def promise(self) -> None:
        self.count += 1
        self.append({"type": "run_started", "run_id": f"r{self.count}", "trigger": "send"})

    # --- what the journal does ---

    @precondition(lambda self: not self.log.reserved)
    @rule()
    def begin(self) -> None:
        self.log.reserve(BLOCK)

    @precondition(lambda self: self.log.reserved)
    @rule(fails=st.sampled_from([False, False, True]), let_out=st.booleans(), meanwhile=st.integers(0, 2))
    def write(self, fails: bool, let_out: bool, meanwhile: int) -> None:
        """Write what is new; more is told before that is done. Where it fails, readers may be let on all the same."""
        log, disk = self.log, self.disk
        new = log.after(disk.last)
        assert [seq for seq, _, _ in new] == [seq for seq in self.live() if seq > disk.last]
        for seq, data, _ in new:
            self.see(seq, data)
        floor = log.floor if log.floor > disk.last else max(disk.floor, log.floor)
        last = log.last
        reserved = log.reserved if last + BLOCK // 2 <= log.reserved else last + BLOCK
        for _ in range(meanwhile):
            self.promise()
        if not fails:
            kept = [frame for frame in disk.frames if frame.seq > floor]
            self.disk = Disk(floor, last, reserved, [*kept, *new])
            if reserved > log.reserved:
                log.reserve(reserved)
        if not fails or let_out:
            log.settle(last)
            self.promises = {seq for seq in self.promises if seq > last}

    @precondition(lambda self: self.amendable())
    @rule(which=PLACE, away=st.booleans())
    def amend(self, which: int, away: bool) -> None:
        """Take back what no reader has had, or tell something else in its place; never the newest for good."""
        some = self.amendable()
        seq = some[which % len(some)]
        self.count += 1
        frame = {"type": "run_started", "run_id": f"a{self.count}", "trigger": "edit"}
        if away and seq != self.log.last:
            self.log.amend(seq, None)
            self.frames[seq] = None
        else:
            self.log.amend(seq, frame)
            self.frames[seq] = frame
        self.bytes.pop(seq, None)

    def amendable(self) -> list[int]:
        return [s for s in sorted(self.promises) if s > max(self.log.floor, self.disk.last) and self.frames[s]]

    @rule(which=PLACE)
    def amend_too_late(self, which: int) -> None:
        """What readers may have had stays as it is."""
        some = [seq for seq in self.live() if seq <= self.log.readable]
        if some:
            self.log.amend(some[which % len(some)], None)

    @rule(back=st.integers(0, 8))
    def trim(self, back: int) -> None:
        """Of what everybody may read, the oldest goes."""
        self.log.trim_to(max(0, self.log.shown - back))

    @precondition(lambda self: self.log.reserved)
    @rule()
    def die(self) -> None:
        """Another process goes on with what is on the disk."""
        disk = self.disk
        positions = [reader.cursor.position for reader in self.readers]
        assert all(position <= disk.reserved for position in positions), "nobody reads beyond what is reserved"
        self.log = log = Log("other", self.max_bytes, journaled=True)
        frames = [frame for frame in disk.frames if frame.seq > disk.floor]
        log.restore(epoch="e", floor=disk.floor, last=disk.last, reserved=disk.reserved, frames=frames)
        self.frames = {seq: frame for seq, frame in self.frames.items() if seq <= disk.last and frame}
        self.used = {seq for seq in self.used if seq <= disk.reserved}
        self.bytes = {seq: data for seq, data in self.bytes.items() if seq <= disk.last}
        self.promises.clear()
        assert (log.epoch, log.last, log.shown) == ("e", disk.last, disk.last)
        self.readers = []
        for position in positions:
            if position > disk.last:
                assert not log.has(position), "what it has had is gone"
            # It goes on from where it was, or, told of the gap, from where the log begins.
            self.read_from(position if log.has(position) else log.floor)

    # --- readers ---

    def read_from(self, position: int) -> None:
        reader: Reader

        def wake() -> None:
            reader.woken = True

        reader = Reader(self.log.cursor(position, wake))
        # It looks at once, as everybody who attaches does.
        reader.woken = True
        self.readers.append(reader)

    @precondition(lambda self: len(self.readers) < 5)
    @rule(which=PLACE)
    def attach(self, which: int) -> None:
        """Anywhere that a reader can be."""
        places = [seq for seq in (*range(self.log.shown + 1),) if self.log.has(seq)]
        for place in places:
            assert place == self.log.floor or place in self.frames
        self.read_from(places[which % len(places)] if places else self.log.floor)

    @precondition(lambda self: self.readers)
    @rule(which=PLACE, max_bytes=st.sampled_from([1, 100, 65536]), until=st.none() | st.integers(0, 4))
    def take(self, which: int, max_bytes: int, until: int | None) -> None:
        reader = self.readers[which % len(self.readers)]
        cursor, before = reader.cursor, reader.cursor.position
        limit = None if until is None else before + until
        reader.woken = False
        if before < self.log.floor:
            with pytest.raises(Gap) as caught:
                cursor.take(max_bytes, limit)
            assert (caught.value.requested, caught.value.earliest) == (before + 1, self.log.first)
            assert cursor.position == self.log.floor
            # Whoever has a gap looks again.
            reader.woken = True
            return
        taken = cursor.take(max_bytes, limit)
        bound = self.readable if limit is None else min(self.readable, limit)
        due = [seq for seq in self.live() if before < seq <= bound]
        got = [json.loads(data)["seq"] for data in taken]
        assert got == due[: len(got)], "in order, none twice, none left out, none too early"
        assert before <= cursor.position <= max(bound, before)
        assert got or not due, "it gets on"
        assert got == due or sum(map(len, taken)) >= max_bytes
        for seq, data in zip(got, taken, strict=True):
            self.see(seq, data)
        reader.asleep = not [seq for seq in self.live() if cursor.position < seq <= self.readable]

    def see(self, seq: int, data: bytes) -> None:
        assert self.bytes.setdefault(seq, data) == data, "the same bytes for everybody, always"
        told = self.frames[seq]
        assert told is not None
        assert json.loads(data) == {**told, "seq": seq}

    @rule()
    def take_all(self) -> None:
        """Everybody looks, and waits for more."""
        for which in range(len(self.readers)):
            self.take(which, 65536, None)

    # --- what must be so ---

    def live(self) -> list[int]:
        return [seq for seq, frame in sorted(self.frames.items()) if frame and seq > self.log.floor]

    @property
    def readable(self) -> int:
        return min([self.log.reserved, *(seq - 1 for seq in self.promises)])

    @invariant()
    def says_what_may_be_read(self) -> None:
        log = self.log
        entries = [seq for seq in sorted(self.frames) if seq > log.floor]
        assert log.readable == self.readable
        assert log.held == (log.last > self.readable)
        assert log.shown == max([seq for seq in entries if seq <= self.readable], default=log.floor)
        for seq in range(log.last + 2):
            assert log.has(seq) == (seq == log.floor or seq in entries)
            if (after := next((entry for entry in entries if entry > seq), None)) is not None:
                assert log.next_after(seq) == after
            else:
                assert log.next_after(seq) > max(self.used, default=0)
        if self.max_bytes:
            # Frames whose numbers are not reserved yet stay until they are.
            assert log.bytes <= self.max_bytes or log.first == log.last or log.first > log.reserved

    @invariant()
    def nobody_sleeps_on(self) -> None:
        """Who has been given all there was is told of more."""
        for reader in self.readers:
            more = [seq for seq in self.live() if reader.cursor.position < seq <= self.readable]
            assert reader.woken or not reader.asleep or not more

    def teardown(self) -> None:
        """In the end the disk has it all, and so has every reader."""
        if not hasattr(self, "log"):
            return
        if not self.log.reserved:
            self.begin()
        for _ in range(2):
            # What was told beyond the reserved numbers waits for the next.
            self.write(fails=False, let_out=False, meanwhile=0)
        assert not self.log.held
        for which, reader in enumerate(self.readers):
            while reader.cursor.position < self.log.last:
                self.take(which, 65536, None)
            assert reader.cursor.take() == []


TestJournaledLog = JournaledLogMachine.TestCase
TestJournaledLog.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
