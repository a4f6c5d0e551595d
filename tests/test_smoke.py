"""The way of a message, once through."""

from __future__ import annotations

from conftest import Serve
from harness import Provider, eventually


async def test_a_turn_streams_and_is_kept(serve: Serve) -> None:
    """A send is acknowledged, streamed token by token, finished, and there on the next visit."""
    served = await serve()
    socket = await served.attach("t1")
    # At a speed at which they do not come in one burst, which would be one frame.
    frames = await socket.turn("/tokens 40\n/tokens-per-second 100")
    kinds = [frame["type"] for frame in frames]
    assert kinds[:3] == ["ack", "run_started", "message"]
    assert kinds[-2:] == ["usage", "run_finished"]
    assert kinds.count("token") > 3
    history = await served.history("t1")
    assert [message["role"] for message in history] == ["user", "assistant"]
    assert history[1]["content"] == socket.text()


async def test_tools_through_a_real_provider(serve: Serve, provider: Provider) -> None:
    """Tool calls come whole and pair up with their results by the model's id."""
    served = await serve("graphs:agent")
    socket = await served.attach("t1")
    await socket.turn('/tool add {"a": 1, "b": 2}')
    [call], [result] = socket.of("tool_call"), socket.of("tool_result")
    assert call["args"] == {"a": 1, "b": 2}
    assert (result["id"], result["status"], result["result"]) == (call["id"], "ok", "3")


async def test_cancel_reaches_the_provider(serve: Serve, provider: Provider) -> None:
    """When run_finished arrives, the provider has no open request, and what was said is in the thread."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    await socket.command("send", content="/tokens 5000")
    await socket.until("token")
    await socket.command("cancel")
    finished = await socket.until("run_finished")
    assert (await provider.stats())["open"] == 0
    assert (finished["status"], finished["reason"]) == ("cancelled", "client")
    history = await served.history("t1")
    assert history[1]["content"] == socket.text()
    assert history[1]["status"] == "cancelled"
    await socket.turn("/tokens 3")
    assert [m["role"] for m in (await provider.requests())[-1]["messages"]] == ["user", "assistant", "user"]


async def test_a_client_that_closes_stops_its_run(serve: Serve, provider: Provider) -> None:
    """Closing the socket stops the provider's request."""
    served = await serve("graphs:openai")
    socket = await served.attach("t1")
    await socket.command("send", content="/tokens 5000")
    await socket.until("token")
    await socket.ws.close()

    async def stopped() -> bool:
        stats = await provider.stats()
        return bool(stats["open"] == 0 and stats["aborted"] == 1)

    await eventually(stopped)
