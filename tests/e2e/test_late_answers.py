"""Answers that come late, to a question about how things were: they change nothing of how things are now."""

from __future__ import annotations

import asyncio
import json
import re

from playwright.async_api import FilePayload, Page, Route, WebSocketRoute, expect

from conftest import Serve
from e2e.conftest import Open
from e2e.steps import SHOWCASE, answers, asked, button, say
from harness import Served, eventually


async def title(served: Served, thread_id: str, text: str) -> None:
    """Make a thread of that title."""
    body = {"thread_id": thread_id, "metadata": {"title": text}}
    async with served.session.post(f"{served.url}/threads", json=body) as response:
        assert response.status == 200


async def choose(page: Page, thread: str, item: str) -> None:
    """Open the menu of a thread in the list, and choose something there."""
    await page.get_by_role("link", name=thread, exact=True).hover()
    await button(page, f"More about {thread}").click()
    await page.get_by_role("menuitem", name=item).click()


async def drawn(page: Page) -> None:
    """Two frames later, what has come is on the screen."""
    await page.evaluate("() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


async def test_a_thread_that_the_list_does_not_show_has_its_title(serve: Serve, open_page: Open) -> None:
    """Neither a search nor the length of the list changes what the thread that is open is called."""
    served = await serve()
    await title(served, "old", "The oldest of all")
    for number in range(45):
        await title(served, f"t{number}", f"Thread {number}")
    page = await open_page(f"{served.url}/#/t/old")
    heading = page.get_by_role("heading", level=1)
    await expect(heading).to_have_text("The oldest of all")
    await page.get_by_label("Search threads").fill("Thread 44")
    await expect(page.get_by_role("navigation").get_by_role("listitem")).to_have_count(1)
    await say(page, "hello")
    await expect(button(page, "Answer again")).to_be_visible()
    await page.get_by_label("Search threads").fill("nothing is called so")
    await expect(page.get_by_text("Nothing found.")).to_be_visible()
    await expect(heading).to_have_text("The oldest of all")
    await expect(page).to_have_title("The oldest of all · threadwire")


async def test_each_of_many_deletions_can_be_undone(serve: Serve, open_page: Open) -> None:
    """Threads of one title, and more than a handful of them: each deletion has its own way back."""
    served = await serve()
    for number in range(6):
        await title(served, f"t{number}", "Notes" if number < 2 else f"Notes {number}")
    page = await open_page(served.url)
    rows = page.get_by_role("navigation").get_by_role("listitem")
    await expect(rows).to_have_count(6)
    for left in range(5, -1, -1):
        await rows.first.get_by_role("link").focus()
        await page.keyboard.press("Delete")
        await expect(rows).to_have_count(left)
    await expect(button(page, "Undo")).to_have_count(6)
    for left in range(5, -1, -1):
        await button(page, "Undo").first.click()
        await expect(button(page, "Undo")).to_have_count(left)
    await expect(rows).to_have_count(6)


async def test_a_deleted_thread_stays_away_while_the_list_is_read(serve: Serve, open_page: Open) -> None:
    """Once a deletion is final the thread is not shown again by a list that was read before it."""
    served = await serve()
    await title(served, "gone", "Soon gone")
    page = await open_page(served.url)
    link = page.get_by_role("link", name="Soon gone")
    await expect(link).to_be_visible()
    read = asyncio.Event()

    async def hold(route: Route) -> None:
        await read.wait()
        await route.continue_()

    await page.clock.install()
    await choose(page, "Soon gone", "Delete")
    await page.route("**/threads/search", hold)
    async with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        await page.clock.run_for(11_000)
    await say(page, "hello")
    await expect(asked(page)).to_be_visible()
    await page.evaluate("dispatchEvent(new HashChangeEvent('hashchange'))")
    await drawn(page)
    await expect(link).to_have_count(0)
    read.set()
    await page.clock.run_for(1000)
    await expect(answers(page)).to_contain_text("You said: hello")
    await expect(link).to_have_count(0)


async def test_a_new_title_is_not_undone_by_an_older_list(serve: Serve, open_page: Open) -> None:
    """A list that was asked for before a thread was renamed, and comes after, has its old title: it is not shown."""
    served = await serve()
    await title(served, "t", "Before")
    page = await open_page(served.url)
    await expect(page.get_by_role("link", name="Before", exact=True)).to_be_visible()
    renamed, told = asyncio.Event(), asyncio.Event()

    async def lists(route: Route) -> None:
        if renamed.is_set():
            return  # never answered
        response = await route.fetch()
        await renamed.wait()
        await route.fulfill(response=response)
        told.set()

    async def patched(route: Route) -> None:
        response = await route.fetch()
        renamed.set()
        await told.wait()
        await drawn(page)
        await route.fulfill(response=response)

    await page.route("**/threads/search", lists)
    await page.route("**/threads/t", patched)
    async with page.expect_request("**/threads/search"):
        await page.evaluate("dispatchEvent(new Event('focus'))")
    await choose(page, "Before", "Rename")
    await page.get_by_label("Title").fill("After")
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Title")).to_have_count(0)
    await expect(page.get_by_role("link", name="After", exact=True)).to_be_visible()
    await page.unroute_all(behavior="ignoreErrors")


async def test_an_older_page_that_comes_too_late_is_dropped(serve: Serve, open_page: Open) -> None:
    """A page of older messages that no longer joins what is shown is not put before it: nothing is missing between."""
    served = await serve(f"{SHOWCASE}:filling")
    socket = await served.attach("long")
    await socket.turn("400")
    await socket.ws.close()
    page = await open_page(f"{served.url}/#/t/long")
    held: list[tuple[WebSocketRoute, str | bytes]] = []
    pages = 0

    def between(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def on_frame(text: str | bytes) -> None:
            nonlocal pages
            frame = json.loads(text)
            older = frame["type"] == "history" and frame.get("id") and frame["messages"][-1]["id"] != "m399"
            pages += bool(older)
            if older and pages == 2:
                held.append((route, text))
            else:
                route.send(text)

        server.on_message(on_frame)

    await page.route_web_socket(re.compile("/ws"), between)
    await page.reload()
    entries = page.locator(".entry")
    await expect(entries).to_have_count(60)
    for _ in range(2):
        await page.evaluate("document.querySelector('.scroller').scrollTop = 0")
        await expect(entries).to_have_count(160)
    await eventually(lambda: held, "a second page is asked for")
    # What a filter hid is read from the thread again: it begins at its end once more.
    await button(page, "Behind the scenes").click()
    await page.get_by_text("Filters", exact=True).click()
    await page.get_by_role("group", name="Not").get_by_label("custom").check()
    await expect(entries).to_have_count(60)
    route, text = held[0]
    route.send(text)
    await drawn(page)
    await page.evaluate(
        """async () => {
          const scroller = document.querySelector('.scroller');
          const first = () => document.querySelector('.entries').firstElementChild.textContent;
          while (!first().startsWith('400')) {
            scroller.scrollTop = 0;
            await new Promise(requestAnimationFrame);
          }
        }"""
    )
    assert await entries.count() == 401


async def test_a_message_waits_for_files_that_are_being_read(serve: Serve, open_page: Open) -> None:
    """Who sends while a file is still being read sends it along."""
    served = await serve(f"{SHOWCASE}:repeating")
    page = await open_page(served.url)
    await page.evaluate(
        """() => {
          const text = File.prototype.text;
          File.prototype.text = function () {
            return new Promise((go) => (window.readFile = () => go(text.call(this))));
          };
        }"""
    )
    notes = FilePayload(name="notes.md", mimeType="text/markdown", buffer=b"# Notes")
    await page.get_by_label("Files", exact=True).set_input_files([notes])
    await say(page, "look at this")
    await page.evaluate("window.readFile()")
    await expect(asked(page)).to_contain_text("look at this")
    await expect(asked(page)).to_contain_text("notes.md")
    await expect(page.locator(".chip")).to_have_count(0)
