"""The page on a server that wants to know who is there: it asks for a token, and connects by tickets."""

from __future__ import annotations

import asyncio
import re

from playwright.async_api import Page, Route, WebSocketRoute, expect

from conftest import Serve
from e2e.conftest import Open
from e2e.steps import answers, asked, button, line, say
from who import ALICE, BOB, JWT, TOKENS, call, signed, thread_of


async def give(page: Page, token: str) -> None:
    """Say who one is."""
    await page.get_by_label("Token", exact=True).last.fill(token)
    await button(page, "Connect").last.click()


async def test_the_page_asks_who_is_there(serve: Serve, open_page: Open) -> None:
    """The page asks for the token, again where that is none, and keeps it for the tab; it is in no address."""
    served = await serve("graphs:echo", auth=TOKENS)
    page = await open_page(served.url)
    addresses: list[str] = []
    page.on("websocket", lambda socket: addresses.append(socket.url))
    page.on("request", lambda request: addresses.append(request.url))
    await give(page, "not a token")
    await expect(line(page, "The server wants a token")).to_be_visible()
    await give(page, ALICE)
    await expect(line(page, "Live")).to_be_visible()
    await say(page, "hello")
    await expect(answers(page)).to_contain_text("echo: hello")
    await expect(page).to_have_url(re.compile(r"#/t/[0-9a-f-]{36}$"))
    await page.reload()
    await expect(answers(page)).to_contain_text("echo: hello")
    await expect(line(page, "Live")).to_be_visible()
    assert [url for url in addresses if "ticket=" in url and url.startswith("ws:")]
    assert not [url for url in addresses if ALICE in url or "token=" in url]


async def test_a_late_refusal_is_not_of_the_token_given_since(serve: Serve, open_page: Open) -> None:
    """What was asked without a token, and is refused only when one was given, does not ask for it again."""
    served = await serve("graphs:echo", auth=TOKENS)
    page = await open_page(served.url)
    given = asyncio.Event()

    async def hold(route: Route) -> None:
        if "authorization" not in route.request.headers:
            await given.wait()
        await route.continue_()

    await page.route("**/threads/search", hold)
    async with page.expect_response(lambda answer: answer.status == 401) as refused:
        await page.reload()
        await give(page, ALICE)
        await expect(line(page, "Live")).to_be_visible()
        given.set()
    await (await refused.value).finished()
    await say(page, "hello")
    await expect(answers(page)).to_contain_text("echo: hello")
    await expect(page.get_by_label("Token", exact=True)).to_have_count(0)


async def test_what_was_said_as_the_token_ended_goes_out_with_the_next(serve: Serve, open_page: Open) -> None:
    """A message that the server refused with the connection, for want of a token, is sent once there is one."""
    served = await serve("graphs:echo", auth=TOKENS)
    page = await open_page(served.url)
    await give(page, ALICE)
    await expect(line(page, "Live")).to_be_visible()
    closing = True
    tasks: list[asyncio.Task[None]] = []

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        async def end() -> None:
            await route.close(code=4401, reason="expired")

        def on_command(text: str | bytes) -> None:
            if closing and '"send"' in str(text):
                tasks.append(asyncio.create_task(end()))
            else:
                server.send(text)

        route.on_message(on_command)

    await page.route_web_socket(re.compile("/ws"), between)
    await page.reload()
    await expect(line(page, "Live")).to_be_visible()
    await say(page, "hello")
    await expect(line(page, "The server wants a token")).to_be_visible()
    closing = False
    await give(page, ALICE)
    await expect(answers(page)).to_contain_text("echo: hello")
    await expect(asked(page)).to_have_count(1)


async def test_the_wall_asks_who_is_there(serve: Serve, open_page: Open) -> None:
    """The wall too asks for a token, once, and streams with it."""
    served = await serve(auth=TOKENS)
    page = await open_page(served.url)
    await page.goto(f"{served.url}/?wall=3")
    await give(page, ALICE)
    await expect(page.get_by_text(re.compile(r"^first word \d+ ms|tokens$"))).not_to_have_count(0)
    await expect(page.get_by_role("article").filter(has_text=re.compile("first word|tokens"))).to_have_count(3)
    await expect(page.get_by_label("Token", exact=True)).to_have_count(0)


async def test_another_user_sees_nothing_of_it(serve: Serve, open_page: Open) -> None:
    """Another user's page lists their own threads, and the address of somebody else's opens nothing."""
    served = await serve("graphs:echo", auth=TOKENS)
    hers = await open_page(served.url)
    await give(hers, ALICE)
    await expect(line(hers, "Live")).to_be_visible()
    await say(hers, "the plans of alice")
    await expect(answers(hers)).to_have_count(1)
    await expect(hers).to_have_url(re.compile(r"#/t/"))
    # One who was there before and wrote nothing: the address is all they have.
    his = await open_page(hers.url)
    await give(his, BOB)
    await expect(line(his, "You may not see this thread")).to_be_visible()
    await expect(his.get_by_text("the plans of alice")).to_have_count(0)
    await button(his, "New chat").first.click()
    await expect(line(his, "Live")).to_be_visible()
    await say(his, "mine")
    await expect(answers(his)).to_contain_text("echo: mine")
    assert (await call(served, "POST", "/threads/count", BOB, {}))[1] == 1


async def test_a_token_that_ends_is_asked_for_again(serve: Serve, open_page: Open) -> None:
    """When the token has ended the page asks for another, and goes on in the same thread."""
    served = await serve("graphs:echo", auth=JWT)
    page = await open_page(f"{served.url}/#/t/{await thread_of(served, signed(), 'before')}")
    # Time to connect and no more: all else comes before it, or behind it.
    await give(page, signed(seconds=12))
    await expect(answers(page)).to_contain_text("echo: before")
    await expect(line(page, "The server wants a token")).to_be_visible(timeout=60_000)
    await give(page, signed())
    await expect(line(page, "Live")).to_be_visible()
    await expect(answers(page)).to_contain_text("echo: before")
    await say(page, "after")
    await expect(asked(page)).to_have_count(2)
    await expect(answers(page).last).to_contain_text("echo: after")
