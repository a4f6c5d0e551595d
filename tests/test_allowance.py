"""What may be taken, by clocks of the test's own: each refusal names its limit and says when to try again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from threadwire.allowance import CONNECTION_RETRY_SECONDS, Allowance, Caps
from threadwire.attachments import attachment_sizes
from threadwire.errors import QuotaExceeded, RateLimited, TooLarge

DAY = 86_400.0


class Clock:
    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Book:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.pages: dict[tuple[str, int], int] = {}

    async def tokens_spent(self, user: str, day: int) -> int:
        return self.pages.get((user, day), 0)

    async def spend_tokens(self, user: str, day: int, tokens: int) -> None:
        self.pages[user, day] = await self.tokens_spent(user, day) + tokens


def test_nothing_is_limited_by_default() -> None:
    """Without caps everything passes."""
    allowance = Allowance()
    for _ in range(1000):
        allowance.upgrade("a")
        allowance.command("u")
        allowance.start("u")
    with allowance.connection("u", "a"), allowance.connection("u", "a"):
        assert allowance.line.join("u", lambda: None).granted


def test_upgrades_are_counted_by_address() -> None:
    """One address may open so many connections a second, and is told when the next; another is not concerned."""
    clock = Clock()
    allowance = Allowance(Caps(upgrades_per_second=2), monotonic=clock)
    for _ in range(2):
        allowance.upgrade("192.0.2.1")
    with pytest.raises(RateLimited, match=r"limits\.upgrades_per_second is 2: try again in 0\.5 s") as refused:
        allowance.upgrade("::ffff:192.0.2.1")
    assert refused.value.retry_after_seconds == 0.5
    allowance.upgrade("192.0.2.2")
    clock.at = 0.5
    allowance.upgrade("192.0.2.1")


def test_commands_and_turns_are_counted_by_user() -> None:
    """A user's commands and turns have a bucket each."""
    clock = Clock()
    allowance = Allowance(Caps(commands_per_second=1, turns_per_minute=1), monotonic=clock)
    allowance.command("u")
    allowance.start("u")
    with pytest.raises(RateLimited, match="commands_per_second is 1: try again in 1 s"):
        allowance.command("u")
    with pytest.raises(RateLimited, match="turns_per_minute is 1: try again in 60 s"):
        allowance.start("u")
    clock.at = 1.0
    allowance.command("u")
    with pytest.raises(RateLimited, match="try again in 59 s"):
        allowance.start("u")


def test_connections_are_counted_while_they_last() -> None:
    """A user and an address have so many at once; what is refused holds nothing."""
    allowance = Allowance(Caps(connections_per_user=1, connections_per_address=2))
    with allowance.connection("u", "a"):
        with pytest.raises(RateLimited, match="connections_per_user is 1") as refused, allowance.connection("u", "a"):
            pass
        assert refused.value.retry_after_seconds == CONNECTION_RETRY_SECONDS
        with (
            allowance.connection("v", "a"),
            pytest.raises(RateLimited, match="connections_per_address is 2"),
            allowance.connection("w", "a"),
        ):
            pass
    with allowance.connection("u", "a"), allowance.connection("w", "a"):
        pass


async def test_tokens_of_a_day() -> None:
    """Who has used up the tokens of the day waits for the next one, and is told how long."""
    wall, book = Clock(DAY + 1000.0), Book()
    allowance = Allowance(Caps(tokens_per_day_per_user=100), book, wall=wall)
    await allowance.turn("u")
    await allowance.spend("u", {"total_tokens": 99})
    await allowance.turn("u")
    await allowance.spend("u", {"total_tokens": 50})
    await allowance.spend("u", None)
    with pytest.raises(QuotaExceeded, match="tokens_per_day_per_user") as refused:
        await allowance.turn("u")
    assert refused.value.retry_after_seconds == DAY - 1000
    await allowance.turn("v")
    wall.at += refused.value.retry_after_seconds
    await allowance.turn("u")
    # Whoever counts the same book goes on from there.
    with pytest.raises(QuotaExceeded):
        await Allowance(Caps(tokens_per_day_per_user=100), book, wall=lambda: DAY).turn("u")


def test_a_refused_turn_costs_no_other() -> None:
    """A turn that is over the day's tokens takes nothing from the minute's turns."""
    book = Book()
    book.pages["u", 0] = 10
    allowance = Allowance(Caps(tokens_per_day_per_user=10, turns_per_minute=1), book, monotonic=Clock(), wall=Clock())
    with pytest.raises(QuotaExceeded):
        asyncio.run(allowance.turn("u"))
    allowance.start("u")


@pytest.mark.parametrize(
    ("content", "sizes"),
    [
        ("a text", []),
        ([{"type": "text", "text": "x" * 100}], []),
        ([{"type": "image", "base64": "QUJD", "mime_type": "image/png"}], [(0, 3)]),
        ([{"type": "text", "text": "see"}, {"type": "file", "base64": "QQ==", "mime_type": "a/b"}], [(1, 1)]),
        ([{"type": "image", "url": "https://x.example/a.png"}], [(0, 0)]),
        ([{"type": "image", "url": "DATA:image/png;base64,QUJDRA=="}], [(0, 4)]),
        ([{"type": "file", "url": "data:text/plain,hello"}], [(0, 5)]),
        ([{"type": "text-plain", "text": "\u00e9\u00e9"}], [(0, 4)]),
        ([{"type": "image", "url": "u", "text": 5, "base64": ["A"]}], [(0, 0)]),
        ([{"type": "image", "base64": None, "url": None, "file_id": "f"}], [(0, 0)]),
    ],
)
def test_sizes_of_attachments(content: Any, sizes: list[tuple[int, int]]) -> None:
    """What an attachment holds is counted as it is when it is unpacked, in whatever way it comes."""
    assert list(attachment_sizes(content)) == sizes


def test_large_attachments() -> None:
    """One that is too large is named with its place and both sizes."""
    allowance = Allowance(Caps(attachment_bytes=3))
    allowance.attachments("content", "long enough")
    allowance.attachments("content", [{"type": "image", "base64": "QUJD", "mime_type": "image/png"}])
    with pytest.raises(TooLarge, match=r"inputs\.2\.0: an attachment of 4 bytes; limits\.attachment_bytes is 3"):
        allowance.attachments("inputs.2", [{"type": "image", "base64": "QUJDRA==", "mime_type": "image/png"}])
