"""One session: a person with a conversation, and one way to behave.

It connects, takes its turns, and at the end holds what it read against what the thread keeps. What it finds goes into
the recorder; nothing it meets ends the run of the others.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from typing import Any

from threadwire.load.scenario import Conversation, Step
from threadwire.load.tab import Over, Tab, World
from threadwire.load.texts import compare_texts, text_of
from threadwire.load.turn import Turn

#: Token frames after which a session that cancels or vanishes does so: by chance, from 1 to this many.
MAX_FRAMES_BEFORE = 20
#: A session that vanishes is away for up to this long: well within any server's grace.
MAX_AWAY_SECONDS = 1.0
#: Beyond the deadline, what the network and a busy machine may take.
CANCEL_SLACK_SECONDS = 1.0


class Session:
    """Made for one run; ``number`` is its own among those of all processes."""

    def __init__(
        self, world: World, number: int, behaviour: str, conversation: Conversation, chance: random.Random
    ) -> None:
        self._world = world
        self._recorder = world.recorder
        self._options = world.options
        self._number = number
        self._behaviour = behaviour
        self._conversation = conversation
        self._chance = chance
        self._tabs: list[Tab] = []
        self._said: set[str] = set()
        self._verified = False

    async def run(self, due: float) -> None:
        """Live it. It was due at ``due``, of the monotonic clock: being late counts as the first connection's time."""
        self._recorder.count("sessions_started")
        try:
            await self._live(due)
        except Over:
            self._recorder.count("sessions_failed")
        except asyncio.CancelledError:
            self._recorder.count("sessions_stopped")
            raise
        else:
            self._recorder.count("sessions_finished")
        finally:
            if self._wanted() and not self._verified and "token_mismatch" not in self._options.ignored:
                self._recorder.count("unverified")
            for tab in self._tabs:
                tab.close()

    async def _live(self, due: float) -> None:
        main = await self._open_tab(due)
        if self._behaviour == "idle":
            await main.until(asyncio.ensure_future(self._world.over.wait()))
            return
        if self._behaviour == "second_tab":
            # The server minted the thread's id: the second tab has it from the first.
            await self._open_tab(time.monotonic(), main.reader.thread_id)
        if self._behaviour == "slow_reader":
            slowly = asyncio.create_task(main.read_slowly())
            try:
                await self._talk(main)
            finally:
                slowly.cancel()
                await asyncio.wait([slowly])
        else:
            await self._talk(main)
        await self._compare(main)

    async def _open_tab(self, due: float, thread_id: str | None = None) -> Tab:
        name = f"session {self._number}" + (", second tab" if self._tabs else "")
        timed = not self._tabs and self._behaviour != "slow_reader"
        tab = Tab(self._world, self._number, name, timed=timed)
        tab.reader.thread_id = thread_id
        tab.reader.said = self._said
        self._tabs.append(tab)
        await tab.open(due)
        return tab

    # --- turns ---

    async def _talk(self, main: Tab) -> None:
        steps = self._conversation.steps
        if steps[0].at is not None:
            await self._say_again(main)
            return
        turns = steps * self._options.turns if len(steps) == 1 else steps
        for index, step in enumerate(turns):
            await self._finish(main, self._begin(main, step, index), step)
            if index + 1 < len(turns):
                await self._think(step)
            if self._world.over.is_set():
                return

    async def _say_again(self, main: Tab) -> None:
        """A recording: each message at its time, however slow the answers are; the first is the session's beginning."""
        began, steps = time.monotonic(), self._conversation.steps
        finishing: list[asyncio.Task[None]] = []
        for index, step in enumerate(steps):
            due = began + (step.at or 0.0) - (steps[0].at or 0.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            finishing.append(asyncio.create_task(self._finish(main, self._begin(main, step, index), step)))
        for task in finishing:
            await task

    async def _think(self, step: Step) -> None:
        seconds = self._options.think_seconds if step.think_seconds is None else step.think_seconds
        if seconds:
            over = asyncio.ensure_future(self._world.over.wait())
            await asyncio.wait([over], timeout=seconds * self._chance.uniform(0.5, 1.5))
            over.cancel()

    def _begin(self, main: Tab, step: Step, index: int) -> Turn:
        run_id = str(uuid.uuid4())  # not of the seed: a second run must not repeat what the server has seen
        turn = Turn(run_id, time.monotonic())
        for tab in self._tabs:
            turn.show(tab.reader)
        command: dict[str, Any] = {"id": run_id, "run_id": run_id}
        if step.respond is not None:
            command |= {"type": "respond"}
            command |= {"responses": {found["id"]: step.respond for found in main.reader.interrupts}}
        else:
            content = step.text(self._number, index)
            self._said.add(f"m-{run_id}")
            command |= {"type": "send", "message_id": f"m-{run_id}", "content": content}
        self._recorder.turns += 1
        turn.answer = main.ask(command)
        return turn

    async def _finish(self, main: Tab, turn: Turn, step: Step) -> None:
        try:
            async with asyncio.timeout(self._options.turn_timeout_seconds):
                if not await self._acknowledged(main, turn):
                    return
                await self._behave(main, turn, step)
                for number, tab in enumerate(self._tabs):
                    await tab.until(turn.ended_at(number))
        except TimeoutError:
            self._never_finished(turn)
            raise Over from None
        finally:
            self._recorder.turns -= 1
        view = turn.views[0]
        self._recorder.count(f"turns_{view.status}")
        if main.reader.timed and not view.resumed and view.status != "unheard":
            self._recorder.latency("turn", time.monotonic() - turn.sent)

    async def _acknowledged(self, main: Tab, turn: Turn) -> bool:
        await main.until(turn.answer)
        answer = turn.answer.result()
        if answer["type"] == "error":
            self._recorder.error(answer["code"])
            self._recorder.count("turns_refused")
            await asyncio.sleep(answer.get("retry_after_seconds") or 0)
            return False
        turn.acknowledged = True
        if main.reader.timed:
            self._recorder.latency("ack", time.monotonic() - turn.sent)
        return True

    def _never_finished(self, turn: Turn) -> None:
        if turn.acknowledged and not any(view.holes for view in turn.views):
            where = "" if turn.views[0].status is None else " on the second tab"
            seconds = self._options.turn_timeout_seconds
            explanation = f"session {self._number}: run {turn.run_id} had no run_finished{where} within {seconds:g} s"
            self._recorder.violation("run_never_finished", explanation)
        else:
            self._recorder.error("turn_timeout")
        self._recorder.count("turns_unheard")

    # --- behaviours ---

    async def _behave(self, main: Tab, turn: Turn, step: Step) -> None:
        if step.cancel_after_tokens is not None:
            await self._cancel(main, turn, step.cancel_after_tokens)
        elif self._behaviour == "cancel":
            await self._cancel(main, turn, self._chance.randint(1, MAX_FRAMES_BEFORE))
        elif self._behaviour == "vanish":
            await main.until(turn.reached(self._chance.randint(1, MAX_FRAMES_BEFORE)))
            main.cut()
            await asyncio.sleep(self._chance.uniform(0, MAX_AWAY_SECONDS))
            await main.come_back()

    async def _cancel(self, main: Tab, turn: Turn, frames: int) -> None:
        await main.until(turn.reached(frames))
        if turn.ended.done():
            return
        asked, seconds = time.monotonic(), self._options.cancel_deadline_seconds
        main.ask({"type": "cancel", "id": f"c-{turn.run_id}", "run_id": turn.run_id})
        try:
            async with asyncio.timeout(seconds + CANCEL_SLACK_SECONDS):
                await main.until(turn.ended)
        except TimeoutError:
            explanation = (
                f"session {self._number}: run {turn.run_id} went on for more than {seconds:g} s after a cancel"
            )
            self._recorder.violation("cancel_late", explanation)
            await main.until(turn.ended)
        self._recorder.latency("cancel", time.monotonic() - asked)

    # --- the end ---

    def _wanted(self) -> set[str]:
        """The messages whose text was read."""
        return {message_id for tab in self._tabs for view in tab.reader.turns.values() for message_id in view.texts}

    async def _compare(self, main: Tab) -> None:
        """Read the thread's messages back, and hold against them what each tab has read."""
        if not self._wanted() or "token_mismatch" in self._options.ignored:
            return
        try:
            async with asyncio.timeout(self._options.turn_timeout_seconds):
                stored = await self._read_back(main)
        except TimeoutError:
            self._recorder.error("read_back_timeout")
            raise Over from None
        if stored is None:
            return
        self._verified = True
        for tab in self._tabs:
            compare_texts(tab.reader.name, tab.reader.turns.values(), stored, self._recorder)

    async def _read_back(self, main: Tab) -> dict[str, str] | None:
        """``{message id: text}``, as far back as is wanted; None where the server refuses."""
        wanted, stored = self._wanted(), dict[str, str]()
        before: str | None = None
        while wanted and (not stored or before is not None):
            page = await main.page(before)
            if page is None:
                return None
            for message in page["messages"]:
                main.reader.check_owner(message, "its thread holds")
                stored[message["id"]] = text_of(message["content"])
            wanted -= stored.keys()
            before = page["before"]
            if not page["messages"]:
                break
        return stored
