"""A credential that ends while the socket is open: told in time, replaced, or the end of the connection.

How long one is good counts from when the server looks at it, so that a busy machine has time for what is in between.
"""

from __future__ import annotations

import time

from conftest import Serve
from harness import eventually
from who import ALICE, NO_RATES, TOKENS, attach, call

HANDLER = {"mode": "custom", "handler": "auth_handlers:by_token"}


async def test_a_credential_that_ends(serve: Serve) -> None:
    """A connection is told in time that its credential is about to end, and closed with 4401 when it does."""
    served = await serve("graphs:echo", auth=HANDLER)
    socket = await attach(served, "alice ends in 5")
    told = await socket.until("credential_expiring")
    assert 0 < told["expires_in_seconds"] <= 5
    assert await socket.closed() == 4401


async def test_a_credential_that_lasts(serve: Serve) -> None:
    """Nothing is told of a credential that is good for long, or for good."""
    served = await serve("graphs:echo", auth=HANDLER)
    for token in ("alice ends in 3600", "alice", "alice ends in 1000000000000"):
        socket = await attach(served, token)
        await socket.turn()
        assert not socket.of("credential_expiring")


async def test_reauth_keeps_the_connection(serve: Serve) -> None:
    """`reauth` with another token of the same user's goes on beyond the end of the first."""
    served = await serve("graphs:echo", auth=HANDLER)
    socket = await attach(served, "alice ends in 6")
    ends = time.time() + 6
    await socket.until("credential_expiring")
    ack = await socket.ask("reauth", token="alice ends in 3600")
    assert ack["type"] == "ack"
    assert 0 < ack["expires_in_seconds"] <= 3600
    await eventually(lambda: time.time() > ends, "the first token has ended")
    await socket.turn("still there?")
    assert (await socket.ask("reauth", token="alice"))["expires_in_seconds"] is None


async def test_reauth_is_the_users_own(serve: Serve) -> None:
    """`reauth` with another user's token, or with none that is good, is refused, and changes nothing."""
    served = await serve("graphs:echo", auth=HANDLER)
    socket = await attach(served, "alice ends in 6")
    assert (await socket.ask("reauth", token="bob"))["code"] == "forbidden"
    for bad in ("nobody", "alice ends in -1", "refused"):
        assert (await socket.ask("reauth", token=bad))["code"] == "unauthorized"
    assert (await socket.ask("reauth", token="broken"))["code"] == "internal"
    assert (await socket.ask("reauth", token=""))["code"] == "invalid_argument"
    assert await socket.closed() == 4401


async def test_the_same_again_is_no_loop(serve: Serve) -> None:
    """Who brings one that is as short-lived each time is told each time halfway, and not at once."""
    served = await serve("graphs:echo", auth=HANDLER)
    socket = await attach(served, "alice ends in 4")
    for _ in range(2):
        await socket.until("credential_expiring")
        assert (await socket.ask("reauth", token="alice ends in 4"))["type"] == "ack"
    assert (await socket.ask("ping"))["type"] == "pong"
    assert socket.frames[-1]["type"] == "pong"
    assert len(socket.of("credential_expiring")) == 2


async def test_guessing_is_cut_off(serve: Serve) -> None:
    """Who tries token after token over one socket is cut off, as who breaks the protocol is."""
    served = await serve("graphs:echo", auth=TOKENS, limits=NO_RATES)
    socket = await attach(served, ALICE)
    for number in range(110):
        await socket.command("reauth", token=f"guess {number}")
    assert await socket.closed() == 1008


async def test_without_auth_reauth_does_nothing(serve: Serve) -> None:
    """Where nobody has to say who they are, every token is as good as any other."""
    served = await serve("graphs:echo")
    socket = await served.attach()
    assert (await socket.ask("reauth", token="whatever"))["type"] == "ack"


async def test_a_ticket_ends_with_its_token(serve: Serve) -> None:
    """A connection by ticket lasts no longer than the token the ticket was had for."""
    served = await serve("graphs:echo", auth=HANDLER)
    ticket = (await call(served, "POST", "/tickets", "alice ends in 5"))[1]["ticket"]
    socket = await attach(served, ticket=ticket)
    await socket.until("credential_expiring")
    assert await socket.closed() == 4401
