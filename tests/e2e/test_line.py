"""The line breaks, the server dies, the tab is reloaded: nothing is lost or comes twice, and the page says so."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Page, WebSocketRoute, expect

from conftest import Serve
from e2e.conftest import Open
from e2e.steps import answers, asked, button, line, said, say
from harness import eventually
from process import ServerProcess

#: Long enough to be cut in the middle, whatever the machine does meanwhile.
SLOW = "/tokens 200\n/tokens-per-second 50"


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """The server as a process of its own, which can be killed."""
    server = ServerProcess(tmp_path)
    await server.start()
    yield server
    await server.kill()


async def restart(server: ServerProcess) -> None:
    """Start it again, on its port."""
    port = server.url.rsplit(":", 1)[1]
    await server.launch("--port", port)


async def test_reload_in_mid_answer(serve: Serve, open_page: Open) -> None:
    """After a reload the answer goes on where it is, and is whole in the end."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, SLOW)
    await expect(said(page)).not_to_be_empty()
    await page.reload()
    await expect(button(page, "Stop")).to_be_visible()
    await expect(button(page, "Answer again")).to_be_visible()
    assert len((await said(page).inner_text()).split()) == 200
    await expect(asked(page)).to_have_count(1)


async def test_two_tabs_on_one_thread(serve: Serve, open_page: Open) -> None:
    """What is said in one tab is seen in the other, word for word, and either can stop it."""
    served = await serve()
    one = await open_page(served.url)
    await say(one, "hello")
    await expect(answers(one)).to_contain_text("You said: hello")
    two = await open_page(one.url, context=one.context)
    await expect(answers(two)).to_contain_text("You said: hello")
    await say(two, "/tokens 100000\n/tokens-per-second 50")
    await expect(button(one, "Stop")).to_be_visible()
    await button(one, "Stop").click()
    for page in (one, two):
        await expect(answers(page).last).to_contain_text("Stopped")
    assert await said(one).inner_text() == await said(two).inner_text()


async def typed_without_a_server(process: ServerProcess, open_page: Open) -> Page:
    """A page with one turn that is over, and two messages typed since its server died."""
    page = await open_page(process.url)
    await say(page, "one")
    await expect(answers(page)).to_contain_text("You said: one")
    # Its end is told: what becomes of an answer that is cut off is another test's.
    await expect(button(page, "Stop")).to_be_hidden()
    await process.kill()
    await expect(line(page, "Reconnecting")).to_be_visible()
    for text in ("two", "three"):
        await say(page, text)
    return page


async def test_what_is_typed_without_a_server_goes_out_once(process: ServerProcess, open_page: Open) -> None:
    """While the server is away the page says so and keeps what is typed, seen as waiting; it is sent once, in order."""
    page = await typed_without_a_server(process, open_page)
    await expect(page.get_by_text("Waiting to be sent")).to_have_count(2)
    await restart(process)
    await expect(answers(page)).to_have_count(3)
    await expect(line(page, "Live")).to_be_visible()
    await expect(asked(page)).to_have_text([re.compile("^one"), re.compile("^two"), re.compile("^three")])
    await expect(page.get_by_text("Waiting to be sent")).to_have_count(0)


async def test_what_is_typed_without_a_server_outlives_a_reload(process: ServerProcess, open_page: Open) -> None:
    """What waits to be sent is kept by the tab: it goes out once the page is back, in new threads and old ones."""
    page = await typed_without_a_server(process, open_page)
    await button(page, "New chat").click()
    await say(page, "elsewhere")
    await expect(page.get_by_text("Waiting to be sent")).to_have_count(1)
    with pytest.raises(PlaywrightError):
        await page.reload()
    await restart(process)

    async def there() -> bool:
        try:
            await page.goto(process.url)
        except PlaywrightError:
            return False
        return True

    await eventually(there, "the page is back")
    await expect(answers(page)).to_contain_text("You said: elsewhere")
    await expect(page).to_have_url(re.compile("#/t/"))
    await page.get_by_role("link", name="one", exact=True).click()
    await expect(answers(page).last).to_contain_text("You said: three")
    await expect(asked(page)).to_have_text([re.compile("^one"), re.compile("^two"), re.compile("^three")])
    await page.reload()
    await expect(answers(page)).to_have_count(3)
    await expect(asked(page)).to_have_count(3)


async def test_what_is_typed_while_a_dead_server_starts_comes_after_what_it_lost(
    process: ServerProcess, open_page: Open
) -> None:
    """The answer that died with the server is cut off where it stands, once; what was typed meanwhile follows it."""
    page = await open_page(process.url)
    await say(page, "/tokens 1000\n/tokens-per-second 20")
    await page.wait_for_function("() => (document.querySelector('.answer-text')?.textContent ?? '').length > 60")
    await process.kill()
    await expect(line(page, "Reconnecting")).to_be_visible()
    await say(page, "/tokens 100000\n/tokens-per-second 21")
    await restart(process)
    await expect(answers(page)).to_have_count(2)
    await button(page, "Stop").click()
    await expect(answers(page).last).to_contain_text("Stopped")
    await expect(asked(page)).to_have_text([re.compile("second 20"), re.compile("second 21")])
    await expect(page.locator(".cut-note")).to_have_text(["Cut off: the server went down", "Stopped"])
    entries = page.get_by_role("log").get_by_role("article")
    names = [await entry.get_attribute("aria-label") for entry in await entries.all()]
    assert names == ["You", "Answer", "You", "Answer"]


async def test_what_the_server_got_before_a_reload_is_not_said_twice(serve: Serve, open_page: Open) -> None:
    """A message whose ack never came is repeated after a reload, recognised by the server, and over on the page too."""
    served = await serve()
    page = await open_page(served.url)
    deaf = True

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def on_frame(text: str | bytes) -> None:
            if not deaf or json.loads(text)["type"] in ("ready", "history"):
                route.send(text)

        server.on_message(on_frame)

    await page.route_web_socket(re.compile("/ws"), between)
    await page.reload()
    await say(page, "hello")
    await expect(page.get_by_text("Waiting to be sent")).to_be_visible()

    async def answered() -> bool:
        body = {"status": "idle", "query": "hello"}
        async with served.session.post(f"{served.url}/threads/search", json=body) as response:
            return len(await response.json()) == 1

    await eventually(answered, "the server has answered")
    deaf = False
    await page.reload()
    await expect(answers(page)).to_contain_text("You said: hello")
    await expect(page.get_by_text("Waiting to be sent")).to_have_count(0)
    await page.wait_for_function("() => sessionStorage.length === 0")
    await expect(asked(page)).to_have_count(1)
    await expect(page.get_by_text("answering")).to_have_count(0)
    await say(page, "and on")
    await expect(answers(page).last).to_contain_text("You said: and on")
    await expect(asked(page)).to_have_count(2)


async def test_a_message_that_closed_the_connection_can_be_sent_again(serve: Serve, open_page: Open) -> None:
    """Where the connection ended for good with a message, that can be sent on another one, or is given up for good."""
    served = await serve()
    page = await open_page(served.url)
    closing = True

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        async def end() -> None:
            await route.close(code=1009, reason="too big")

        def on_command(text: str | bytes) -> None:
            if closing and json.loads(text)["type"] == "send":
                tasks.append(asyncio.create_task(end()))
            else:
                server.send(text)

        route.on_message(on_command)

    tasks: list[asyncio.Task[None]] = []
    await page.route_web_socket(re.compile("/ws"), between)
    await page.reload()
    await say(page, "hello")
    await expect(line(page, "That message was too large")).to_be_visible()
    closing = False
    await button(page, "Send again").click()
    await expect(answers(page)).to_contain_text("You said: hello")
    await expect(asked(page)).to_have_count(1)
    closing = True
    await say(page, "too much")
    await expect(button(page, "Send again")).to_be_visible()
    closing = False
    await page.reload()
    await expect(line(page, "Live")).to_be_visible()
    await expect(answers(page)).to_have_count(1)
    await expect(asked(page)).to_have_count(1)


async def test_a_server_that_stops_says_so(process: ServerProcess, open_page: Open) -> None:
    """While the server lets its runs finish, the page shows it, and it goes on with the next one."""
    page = await open_page(process.url)
    await say(page, SLOW)
    await expect(said(page)).not_to_be_empty()
    process.signal(signal.SIGTERM)
    await expect(line(page, "Server is stopping")).to_be_visible()
    assert await process.ended() == 0
    await restart(process)
    await expect(line(page, "Live")).to_be_visible()
    assert len((await said(page).inner_text()).split()) == 200


async def test_offline_and_back(process: ServerProcess, open_page: Open) -> None:
    """Without a network the page says "Offline"; what is typed waits, and goes out as soon as it is back."""
    page = await open_page(process.url)
    await say(page, "one")
    await expect(answers(page)).to_contain_text("You said: one")
    await page.context.set_offline(True)
    # The browser's own switch leaves sockets on this machine alone.
    await process.kill()
    await expect(line(page, "Offline")).to_be_visible()
    await say(page, "two")
    await expect(page.get_by_text("Waiting to be sent")).to_be_visible()
    await restart(process)
    await page.context.set_offline(False)
    await expect(answers(page).last).to_contain_text("You said: two")
    await expect(line(page, "Live")).to_be_visible()
    await expect(asked(page)).to_have_count(2)


async def test_a_deleted_thread_is_closed(serve: Serve, session: aiohttp.ClientSession, open_page: Open) -> None:
    """A thread that is deleted elsewhere says so, and is no longer in the list."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "hello")
    await expect(answers(page)).to_contain_text("You said: hello")
    [thread_id] = re.findall(r"#/t/(.+)", page.url)
    await (await session.delete(f"{served.url}/threads/{thread_id}")).release()
    await expect(line(page, "This thread was deleted")).to_be_visible()
