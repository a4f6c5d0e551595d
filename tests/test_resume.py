"""Coming back to a thread: replay, gaps, history in mid-run, what is forgotten and when."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

from conftest import Serve
from harness import Provider, Served, Socket, eventually

#: Slow enough to be joined in the middle, and over in half a second.
HALF_A_SECOND = "/tokens 100\n/tokens-per-second 200"
#: Longer than any test; whoever asks for it cancels it.
ENDLESS = "/tokens 100000\n/tokens-per-second 200"


class View:
    """What a client has of a thread: a history, and the frames after it. Written from the protocol's page alone."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.seq = 0

    def apply(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "history":
            self.messages = {message["id"]: dict(message) for message in frame["messages"]}
            self.seq = frame["seq"]
        elif frame.get("seq", 0) > self.seq:
            self.seq = frame["seq"]
            if frame["type"] == "message":
                self.messages[frame["message"]["id"]] = dict(frame["message"])
            elif frame["type"] == "token":
                empty = {"id": frame["message_id"], "role": "assistant", "content": ""}
                self.messages.setdefault(frame["message_id"], empty)["content"] += frame["content"]

    def told(self) -> list[tuple[str, str, Any]]:
        return told(list(self.messages.values()))


def told(messages: list[dict[str, Any]]) -> list[tuple[str, str, Any]]:
    return [(m["id"], m["role"], m["content"]) for m in messages if m["role"] != "tool"]


def numbered(socket: Socket) -> list[bytes]:
    """The bytes of the frames that are the thread's."""
    return [raw for raw, frame in zip(socket.raw, socket.frames, strict=True) if "seq" in frame and _is_log(frame)]


def _is_log(frame: dict[str, Any]) -> bool:
    return frame["type"] not in ("ready", "history", "pong")


async def ready(served: Served, thread_id: str, **query: Any) -> tuple[Socket, dict[str, Any]]:
    socket = await served.attach(thread_id, **query)
    return socket, socket.frames[0]


# --- after and epoch ----------------------------------------------------------------------------------------------


async def test_replay_is_byte_for_byte(serve: Serve) -> None:
    """Whatever `after` is, what follows it comes again in the same bytes as the first time."""
    served = await serve()
    first, hello = await ready(served, "t1")
    await first.turn("one")
    await first.turn("/tokens 30\n/tokens-per-second 1000")
    sent = numbered(first)
    seqs = [frame["seq"] for frame in first.frames if _is_log(frame) and "seq" in frame]
    for after in (0, seqs[0], seqs[len(seqs) // 2], seqs[-2], seqs[-1]):
        again, welcome = await ready(served, "t1", after=after, epoch=hello["epoch"])
        assert (welcome["resume"], welcome["seq"]) == ("replayed", seqs[-1])
        expected = [raw for raw, seq in zip(sent, seqs, strict=True) if seq > after]
        for _ in expected:
            await again.next()
        assert numbered(again) == expected
        assert (await again.ask("ping"))["seq"] == seqs[-1]
        assert numbered(again) == expected


async def test_replay_goes_on_live(serve: Serve) -> None:
    """Resuming in mid-run gives the rest of it, what was missed and what is still to come, in the same bytes."""
    served = await serve()
    first, hello = await ready(served, "t1")
    await first.command("send", content=HALF_A_SECOND)
    seen = await first.until("token")
    second, welcome = await ready(served, "t1", after=seen["seq"], epoch=hello["epoch"])
    assert welcome["resume"] == "replayed"
    assert welcome["run"]["status"] == "running"
    await asyncio.gather(first.until("run_finished"), second.until("run_finished"))
    at = next(i for i, raw in enumerate(numbered(first)) if raw == first.raw[first.frames.index(seen)])
    assert numbered(second) == numbered(first)[at + 1 :]


async def test_history_is_ignored_when_replayed(serve: Serve) -> None:
    """A client that missed nothing gets no history, though it asked for one in case it had."""
    served = await serve()
    first, hello = await ready(served, "t1")
    frames = await first.turn("one")
    second, welcome = await ready(served, "t1", after=frames[-1]["seq"], epoch=hello["epoch"], history=10)
    assert welcome["resume"] == "replayed"
    assert (await second.ask("ping"))["type"] == "pong"
    assert second.of("history") == []


async def test_another_epoch_is_a_gap(serve: Serve) -> None:
    """An epoch that is not the log's gives a gap that names what was asked for and where it goes on."""
    served = await serve()
    first, hello = await ready(served, "t1")
    await first.turn("one")
    second, welcome = await ready(served, "t1", after=2, epoch="another")
    assert (welcome["resume"], welcome["epoch"]) == ("gap", hello["epoch"])
    gap = await second.next()
    assert (gap["type"], gap["requested"], gap["earliest"], gap["epoch"]) == ("gap", 3, 1, hello["epoch"])
    await second.until("run_finished")
    assert numbered(second) == numbered(first)


async def test_after_beyond_the_end_is_a_gap(serve: Serve) -> None:
    """A position the log has never reached cannot be resumed from."""
    served = await serve()
    first, hello = await ready(served, "t1")
    frames = await first.turn("one")
    second, welcome = await ready(served, "t1", after=frames[-1]["seq"] + 1, epoch=hello["epoch"])
    assert welcome["resume"] == "gap"
    assert (await second.next())["type"] == "gap"


async def test_a_gap_with_history_goes_on_behind_the_history(serve: Serve) -> None:
    """ready, history, gap: the frames the history tells of are not sent as well."""
    served = await serve()
    first, _ = await ready(served, "t1")
    await first.turn("one")
    second, welcome = await ready(served, "t1", after=1, epoch="another", history=10)
    assert welcome["resume"] == "gap"
    kinds = [(await second.next())["type"] for _ in range(2)]
    assert sorted(kinds) == ["gap", "history"]
    await first.turn("two")
    await second.until("run_finished")
    live = [frame for frame in second.frames if _is_log(frame) and "seq" in frame]
    assert all(frame["seq"] > second.of("history")[0]["seq"] for frame in live)
    assert second.of("gap")[0]["earliest"] == second.of("history")[0]["seq"] + 1


async def test_an_unused_thread_is_fresh(serve: Serve) -> None:
    """Nothing there: created, fresh, no run; and connecting alone does not make it."""
    served = await serve()
    for _ in range(2):
        _, welcome = await ready(served, "t1", history=5)
        assert (welcome["created"], welcome["resume"], welcome["seq"], welcome["run"]) == (True, "fresh", 0, None)
        assert (welcome["queue"], welcome["interrupts"]) == ([], [])
    socket, welcome = await ready(served, "t1")
    await socket.turn("one")
    _, welcome = await ready(served, "t1")
    assert (welcome["created"], welcome["resume"]) == (False, "fresh")


async def test_attaching_to_a_run_gives_its_frames_from_its_start(serve: Serve) -> None:
    """Without `after`, a reader that comes in the middle of a run gets it from `run_started` on, and nothing older."""
    served = await serve()
    first, _ = await ready(served, "t1")
    await first.turn("before")
    older = len(numbered(first))
    await first.command("send", content=HALF_A_SECOND)
    await first.until("token")
    second, welcome = await ready(served, "t1")
    assert welcome["resume"] == "fresh"
    await asyncio.gather(first.until("run_finished"), second.until("run_finished"))
    assert second.frames[1]["type"] == "run_started"
    assert numbered(second) == numbered(first)[older:]


async def test_after_a_run_nothing_is_replayed_unasked(serve: Serve) -> None:
    """Without `after` and without a run, only what comes from now on."""
    served = await serve()
    first, _ = await ready(served, "t1")
    await first.turn("one")
    second, _ = await ready(served, "t1")
    await second.ask("ping")
    assert numbered(second) == []


# --- what is trimmed ----------------------------------------------------------------------------------------------


async def test_a_trimmed_log_is_a_gap(serve: Serve) -> None:
    """A reader whose place is gone is told from which frame on it goes on, and that frame is the next it gets."""
    served = await serve(log={"max_bytes_per_thread": 4000})
    first, hello = await ready(served, "t1")
    for _ in range(8):
        await first.turn("hello")
    second, welcome = await ready(served, "t1", after=2, epoch=hello["epoch"])
    gap = await second.next()
    assert (welcome["resume"], gap["type"], gap["requested"]) == ("gap", "gap", 3)
    assert gap["earliest"] > 3
    assert (await second.next())["seq"] == gap["earliest"]
    await second.until("run_finished", seq=welcome["seq"])
    assert numbered(first)[-len(numbered(second)) :] == numbered(second)


async def test_a_run_whose_start_is_trimmed_is_a_gap(serve: Serve) -> None:
    """Attaching without `after` to a run longer than the log gives a gap, and goes on from there."""
    served = await serve(log={"max_bytes_per_thread": 4000})
    first, _ = await ready(served, "t1")
    await first.command("send", content="/tokens 200000\n/tokens-per-second 400")
    started = await first.until("run_started")
    for _ in range(40):
        await first.until("token")
    second, welcome = await ready(served, "t1")
    gap = await second.next()
    assert (welcome["resume"], gap["type"], gap["requested"]) == ("gap", "gap", started["seq"])
    assert gap["earliest"] > started["seq"]
    assert gap["run"]["run_id"] == started["run_id"]
    following = await second.next()
    while following["type"] == "gap":
        # The log was trimmed once more before this reader came to read it.
        gap, following = following, await second.next()
    assert following["seq"] == gap["earliest"]
    await first.command("cancel")
    await first.until("run_finished")
    # The text of the message being written is kept apart from the log: none of it is lost.
    [_, answer] = await served.history("t1")
    assert answer["content"] == first.text()


async def test_finished_frames_go_after_their_time(serve: Serve) -> None:
    """`log.keep_seconds` after a run its frames are forgotten; then the idle thread is, but not how far its log was."""
    served = await serve(log={"keep_seconds": 0.2})
    first, hello = await ready(served, "t1")
    last = (await first.turn("one"))[-1]["seq"]

    async def forgotten() -> dict[str, Any] | None:
        socket, welcome = await ready(served, "t1", after=1, epoch=hello["epoch"])
        found = await socket.next()
        await socket.ws.close()
        return {**found, "resume": welcome["resume"], "at": welcome["epoch"]} if found["type"] == "gap" else None

    gap = await eventually(forgotten, "its frames are gone")
    assert (gap["requested"], gap["earliest"], gap["at"]) == (2, last + 1, hello["epoch"])
    # The end of the log is no gap: nothing came after it.
    socket, welcome = await ready(served, "t1", after=last, epoch=hello["epoch"])
    assert welcome["resume"] == "replayed"
    await socket.ws.close()
    await first.ws.close()

    from threadwire.http import HUB

    hub = served.server.app[HUB]
    await eventually(lambda: len(hub) == 0, "the thread is evicted")
    socket, welcome = await ready(served, "t1", after=last, epoch=hello["epoch"])
    assert (welcome["resume"], welcome["seq"], welcome["epoch"]) == ("replayed", last, hello["epoch"])
    later = await socket.turn("two")
    assert later[1]["seq"] > last
    socket, welcome = await ready(served, "t1", after=1, epoch=hello["epoch"], history=2)
    assert welcome["resume"] == "gap"
    assert welcome["created"] is False
    history = await socket.until("history")
    assert [message["role"] for message in history["messages"]] == ["user", "assistant"]


async def test_a_thread_with_a_reader_is_not_evicted(serve: Serve) -> None:
    """Somebody who only listens keeps the thread's epoch, however long ago the last run was."""
    from threadwire.http import HUB

    served = await serve(log={"keep_seconds": 0})
    other, _ = await ready(served, "other")
    stays, hello = await ready(served, "t1")
    last = (await stays.turn("one"))[-1]["seq"]
    await other.turn("gone")
    await other.ws.close()
    hub = served.server.app[HUB]
    await eventually(lambda: len(hub) == 1, "the one nobody reads is evicted")
    _, welcome = await ready(served, "t1", after=last, epoch=hello["epoch"])
    assert welcome["resume"] == "replayed"


# --- history ------------------------------------------------------------------------------------------------------


async def test_history_comes_right_after_ready(serve: Serve) -> None:
    """`history=N` is the frame after `ready`, has the N latest messages, and names the page before."""
    served = await serve()
    first, _ = await ready(served, "t1")
    for word in ("one", "two", "three"):
        await first.turn(word)
    second, welcome = await ready(served, "t1", history=3)
    history = await second.next()
    assert (history["type"], history["seq"]) == ("history", welcome["seq"])
    assert [m["role"] for m in history["messages"]] == ["assistant", "user", "assistant"]
    assert history["messages"][1]["content"] == "three"
    assert history["before"] == history["messages"][0]["id"]


async def test_the_message_being_written_is_in_the_history(serve: Serve) -> None:
    """In mid-run history ends with the answer so far, marked as running, under the id of its tokens."""
    served = await serve()
    first, _ = await ready(served, "t1")
    await first.command("send", content=ENDLESS)
    for _ in range(10):
        token = await first.until("token")
    second, _ = await ready(served, "t1", history=10)
    history = await second.next()
    [user, answer] = history["messages"]
    assert (user["role"], user["content"]) == ("user", ENDLESS)
    assert (answer["id"], answer["status"]) == (token["message_id"], "running")
    assert answer["content"].startswith(first.text())
    following = await second.next()
    assert following["seq"] > history["seq"]
    await first.command("cancel")
    await asyncio.gather(first.until("run_finished"), second.until("run_finished"))
    assert answer["content"] + second.text() == first.text()
    [_, stored] = await served.history("t1")
    assert (stored["content"], stored["status"]) == (first.text(), "cancelled")


#: The run that ends each of the following tests; whoever follows the thread follows it to there.
LAST_RUN = "0190a000-0000-7000-8000-000000000001"


async def _follow(socket: Socket) -> View:
    """A client that has just attached, and goes on to the end of the last run."""
    view = View()
    while True:
        frame = await socket.next()
        view.apply(frame)
        if frame["type"] == "run_finished" and frame["run_id"] == LAST_RUN:
            return view


async def _attach_often(served: Served, thread_id: str, enough: asyncio.Event) -> list[asyncio.Task[View]]:
    following: list[asyncio.Task[View]] = []
    for count in itertools.count():
        if enough.is_set():
            return following
        socket = await served.attach(thread_id, on_disconnect="continue", history=50)
        following.append(asyncio.create_task(_follow(socket)))
        # At all sorts of moments between two tokens.
        await asyncio.sleep(0.004 * (count % 5))
    raise AssertionError


async def _views(served: Served, writer: Socket, turns: AsyncIterator[None]) -> tuple[list[View], list[Any]]:
    """What clients that attached all through ``turns`` have in the end, and the thread as it is."""
    enough = asyncio.Event()
    attaching = asyncio.create_task(_attach_often(served, "t1", enough))
    async for _ in turns:
        pass
    enough.set()
    following = await attaching
    await writer.turn("/tokens 3", run_id=LAST_RUN)
    views = await asyncio.gather(*following)
    return views, told(await served.history("t1"))


async def test_attaching_with_history_is_atomic(serve: Serve) -> None:
    """Clients that come at any moment of several turns all end up with the same messages, none missed or twice."""
    served = await serve()
    writer, _ = await ready(served, "t1")

    async def turns() -> AsyncIterator[None]:
        for turn in range(4):
            yield
            await writer.turn(f"/tokens {40 + turn}\n/tokens-per-second 300")

    views, expected = await _views(served, writer, turns())
    assert len(expected) == 10
    assert len(views) > 10
    for view in views:
        assert view.told() == expected


async def test_attaching_with_history_is_atomic_while_runs_are_cut_off(serve: Serve) -> None:
    """The same where each turn is cancelled in the middle, which hands the text from the run to the checkpointer."""
    served = await serve()
    writer, _ = await ready(served, "t1")

    async def turns() -> AsyncIterator[None]:
        for _ in range(5):
            yield
            await writer.command("send", content=ENDLESS)
            await writer.until("run_started")
            for _ in range(15):
                await writer.until("token")
            await writer.command("cancel")
            await writer.until("run_finished")

    views, expected = await _views(served, writer, turns())
    assert len(expected) == 12
    for view in views:
        assert view.told() == expected


async def test_attaching_with_history_is_atomic_with_tools(serve: Serve, provider: Provider) -> None:
    """The same where the answer comes after a tool's result, through a real provider."""
    served = await serve("graphs:agent")
    writer, _ = await ready(served, "t1")

    async def turns() -> AsyncIterator[None]:
        for _ in range(3):
            yield
            await writer.turn('/tool add {"a": 1, "b": 2}\n/tokens 30')

    views, expected = await _views(served, writer, turns())
    for view in views:
        assert [entry for entry in view.told() if entry[2]] == [entry for entry in expected if entry[2]]


async def test_attaching_with_history_is_atomic_where_nothing_streams(serve: Serve) -> None:
    """The same for a graph whose answers come whole, many short turns one after another."""
    served = await serve("graphs:echo")
    writer, _ = await ready(served, "t1")

    async def turns() -> AsyncIterator[None]:
        for turn in range(15):
            yield
            await writer.turn(f"m{turn}")

    views, expected = await _views(served, writer, turns())
    assert len(expected) == 32
    for view in views:
        assert view.told() == expected


async def test_each_history_command_is_answered(serve: Serve) -> None:
    """Also one that comes in the moment in which the one before it has been sent."""
    served = await serve()
    socket, _ = await ready(served, "t1")
    await socket.turn("one")
    for _ in range(300):
        assert (await socket.ask("history"))["type"] == "history"


async def test_a_history_command_stands_between_its_frames(serve: Serve) -> None:
    """In mid-stream, frames up to the history's `seq` come before it, later ones after; its text says the same."""
    served = await serve()
    socket, _ = await ready(served, "t1")
    await socket.command("send", content=HALF_A_SECOND)
    await socket.until("token")
    asked = 0
    while socket.frames[-1]["type"] != "run_finished":
        if asked < 20:
            asked += 1
            await socket.command("history", id=f"h{asked}")
        await socket.next()
    while len(socket.of("history")) < asked:
        await socket.next()
    seen, text = 0, ""
    for frame in socket.frames[1:]:
        if frame["type"] == "history":
            assert frame["seq"] >= seen
            assert seen >= frame["seq"], "frames up to its seq come first"
            answers = [m for m in frame["messages"] if m["role"] == "assistant"]
            assert "".join(m["content"] for m in answers) == text
        elif "seq" in frame:
            assert frame["seq"] > seen
            seen = frame["seq"]
            text += frame["content"] if frame["type"] == "token" else ""


async def test_paging_to_the_beginning(serve: Serve) -> None:
    """Page by page with `before` gives each message once, in order; the first page says that it is the first."""
    served = await serve("graphs:echo", limits={"history_page": 4})
    socket, _ = await ready(served, "t1")
    for number in range(7):
        await socket.turn(f"m{number}")
    pages: list[dict[str, Any]] = []
    before: str | None = None
    while not pages or before is not None:
        answer = await socket.ask("history", limit=3, **({"before": before} if before else {}))
        assert answer["type"] == "history"
        pages[:0] = answer["messages"]
        before = answer["before"]
        assert len(answer["messages"]) == 3 or before is None
    contents = [message["content"] for message in pages]
    assert contents == [text for number in range(7) for text in (f"m{number}", f"echo: m{number}")]
    assert len((await socket.ask("history", limit=1000))["messages"]) == 4
    assert len((await socket.ask("history"))["messages"]) == 4


async def test_a_page_before_an_unknown_message_is_refused(serve: Serve) -> None:
    """`before` names a message of the thread, or the command is refused."""
    served = await serve()
    socket, _ = await ready(served, "t1")
    await socket.turn("one")
    assert (await socket.ask("history", before="nobody"))["code"] == "no_such_message"
