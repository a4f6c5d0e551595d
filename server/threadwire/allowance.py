"""What users and addresses may take of one server: counted here, refused here, each refusal with the limit's name.

A user is an identity as ``RunRow.owner`` has it, empty where nobody has to say who they are: those share one allowance.
Knows no socket and no route; what it forbids comes out as an error that says when to try again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from threadwire.attachments import attachment_sizes
from threadwire.errors import QuotaExceeded, RateLimited, TooLarge, Unauthorized
from threadwire.limits import Counts, Rates, address_key, day_of, seconds_left
from threadwire.line import Line

#: When a connection over a limit may be worth another try: nobody knows when one of the others goes.
CONNECTION_RETRY_SECONDS = 10.0
#: Within how long an address may bring as many bad credentials as it may open connections in a second.
FAILURES_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Caps:
    """The keys of the section ``limits`` that are counted here; 0: no limit."""

    connections_per_user: int = 0
    connections_per_address: int = 0
    upgrades_per_second: int = 0
    commands_per_second: int = 0
    turns_per_minute: int = 0
    concurrent_runs_per_user: int = 0
    concurrent_runs: int = 0
    tokens_per_day_per_user: int = 0
    attachment_bytes: int = 0


class Ledger(Protocol):
    """Where tokens are counted so that a restart does not forget them. Days are UTC's, from the epoch."""

    async def tokens_spent(self, user: str, day: int) -> int:
        """What the user's runs have used on that day."""
        ...

    async def spend_tokens(self, user: str, day: int, tokens: int) -> None:
        """Add to it."""
        ...


class Allowance:
    """One server's. ``ledger`` None: tokens are not counted."""

    def __init__(
        self,
        caps: Caps | None = None,
        ledger: Ledger | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.caps = caps = caps or Caps()
        #: Who may run now.
        self.line = Line(caps.concurrent_runs, caps.concurrent_runs_per_user)
        self._ledger = ledger
        self._monotonic = monotonic
        self._wall = wall
        self._upgrades = Rates(caps.upgrades_per_second, 1.0)
        # No key of its own: where upgrades are not limited, all come from one address, which nobody is to shut.
        self._failures = Rates(caps.upgrades_per_second, FAILURES_SECONDS)
        self._commands = Rates(caps.commands_per_second, 1.0)
        self._turns = Rates(caps.turns_per_minute, 60.0)
        self._of_users = Counts(caps.connections_per_user)
        self._of_addresses = Counts(caps.connections_per_address)

    def upgrade(self, address: str) -> None:
        """One more connection from there is asked for; raises ``RateLimited``."""
        wait = self._upgrades.take(address_key(address), self._monotonic())
        _check("upgrades_per_second", self.caps.upgrades_per_second, wait)

    @contextmanager
    def credential(self, address: str) -> Iterator[None]:
        """Look at a credential from there: those that are ``Unauthorized`` are counted.

        Raises ``RateLimited`` on entering, good or not, where too many were.
        """
        place = address_key(address)
        if wait := self._failures.wait(place, self._monotonic()):
            raise _limited("Too many bad credentials from this address", wait)
        try:
            yield
        except Unauthorized:
            self._failures.take(place, self._monotonic())
            raise

    def enter(self, user: str, address: str) -> None:
        """A connection begins; ``leave`` has to tell its end. Raises ``RateLimited``, and then nothing is taken."""
        place = address_key(address)
        if not self._of_addresses.take(place):
            _check("connections_per_address", self.caps.connections_per_address, CONNECTION_RETRY_SECONDS)
        if not self._of_users.take(user):
            self._of_addresses.give(place)
            _check("connections_per_user", self.caps.connections_per_user, CONNECTION_RETRY_SECONDS)

    def leave(self, user: str, address: str) -> None:
        """A connection that was let in has ended."""
        self._of_users.give(user)
        self._of_addresses.give(address_key(address))

    @contextmanager
    def connection(self, user: str, address: str) -> Iterator[None]:
        """A connection, from its beginning to its end. Raises ``RateLimited`` on entering."""
        self.enter(user, address)
        try:
            yield
        finally:
            self.leave(user, address)

    def command(self, user: str) -> None:
        """One more command, or request; raises ``RateLimited``."""
        wait = self._commands.take(user, self._monotonic())
        _check("commands_per_second", self.caps.commands_per_second, wait)

    async def turn(self, user: str) -> None:
        """One more turn. Raises ``RateLimited``, ``QuotaExceeded``."""
        await self.tokens(user)
        self.start(user)

    def start(self, user: str) -> None:
        """One more turn, or batch, whose tokens are looked at elsewhere. Raises ``RateLimited``."""
        wait = self._turns.take(user, self._monotonic())
        _check("turns_per_minute", self.caps.turns_per_minute, wait)

    async def tokens(self, user: str) -> None:
        """Whether the user has tokens left today; what runs may still go over. Raises ``QuotaExceeded``."""
        most = self.caps.tokens_per_day_per_user
        if not most or self._ledger is None:
            return
        now = self._wall()
        if await self._ledger.tokens_spent(user, day_of(now)) >= most:
            wait = math.ceil(seconds_left(now))
            raise QuotaExceeded(
                f"limits.tokens_per_day_per_user: the {most} tokens of today (UTC) are used up; they are there again"
                f" in {wait} s.",
                retry_after_seconds=wait,
            )

    async def spend(self, user: str, usage: dict[str, Any] | None) -> None:
        """Count what a run without a thread has used; of the others, the storage does with their end."""
        tokens = int((usage or {}).get("total_tokens") or 0)
        if tokens and self._ledger is not None:
            await self._ledger.spend_tokens(user, day_of(self._wall()), tokens)

    def attachments(self, field: str, content: Any) -> None:
        """Whether each attachment of a message is small enough; ``field`` is where it stands. Raises ``TooLarge``."""
        most = self.caps.attachment_bytes
        for place, size in attachment_sizes(content) if most else ():
            if size > most:
                raise TooLarge(f"{field}.{place}: an attachment of {size} bytes; limits.attachment_bytes is {most}.")


def user_of(user: dict[str, Any] | None) -> str:
    """Whom a graph's ``langgraph_auth_user`` counts as."""
    return "" if user is None else str(user["identity"])


def _check(limit: str, most: int, wait: float) -> None:
    if wait:
        raise _limited(f"limits.{limit} is {most}", wait)


def _limited(why: str, wait: float) -> RateLimited:
    seconds = math.ceil(wait * 1000) / 1000
    return RateLimited(f"{why}: try again in {seconds:g} s.", retry_after_seconds=seconds)
