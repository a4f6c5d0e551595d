"""Saying it differently, asking again, and a server that dies in mid-answer."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from conftest import Serve
from e2e.conftest import Open
from e2e.steps import answers, asked, button, line, said, say
from process import ServerProcess


async def test_an_earlier_message_is_edited(serve: Serve, open_page: Open) -> None:
    """An edited message takes the place of the old one and of all that followed; in another tab as well."""
    served = await serve()
    page = await open_page(served.url)
    for text in ("one", "two"):
        await say(page, text)
        await expect(answers(page).last).to_contain_text(f"You said: {text}")
    other = await open_page(page.url, context=page.context)
    await expect(answers(other)).to_have_count(2)
    await asked(page).first.hover()
    await asked(page).first.get_by_role("button", name="Edit").click()
    await page.get_by_label("Edit your message").fill("uno")
    await page.keyboard.press("Enter")
    for each in (page, other):
        await expect(asked(each)).to_have_text([re.compile("^uno")])
        await expect(answers(each)).to_contain_text("You said: uno")
    await page.reload()
    await expect(asked(page)).to_have_text([re.compile("^uno")])


async def test_an_edit_can_be_left(serve: Serve, open_page: Open) -> None:
    """Escape leaves the message as it was."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "one")
    await expect(answers(page)).to_contain_text("You said: one")
    await asked(page).hover()
    await asked(page).get_by_role("button", name="Edit").click()
    await page.get_by_label("Edit your message").fill("other")
    await page.keyboard.press("Escape")
    await expect(asked(page).locator("p")).to_have_text("one")


async def test_an_answer_is_given_again(serve: Serve, open_page: Open) -> None:
    """A stopped answer is answered again, in its place; so is one that failed before its first word."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "/tokens 100000\n/tokens-per-second 50")
    await expect(said(page)).not_to_be_empty()
    await button(page, "Stop").click()
    await page.locator(".cut").get_by_role("button", name="Answer again").click()
    await expect(button(page, "Stop")).to_be_visible()
    await expect(answers(page)).to_have_count(1)
    await button(page, "Stop").click()
    await expect(answers(page).get_by_text("Stopped")).to_be_visible()
    await button(page, "New chat").click()
    await say(page, "/error")
    await page.locator(".cut").get_by_role("button", name="Answer again").click()
    await expect(asked(page)).to_have_count(1)
    await expect(page.locator(".cut-note")).to_have_count(1)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """The server as a process of its own, which can be killed."""
    server = ServerProcess(tmp_path)
    await server.start()
    yield server
    await server.kill()


async def test_a_server_that_dies_in_mid_answer(process: ServerProcess, open_page: Open) -> None:
    """What was said before the server died is there when it is back, marked as cut off; it can be answered again."""
    page = await open_page(process.url)
    await say(page, "/tokens 100\n/tokens-per-second 20")
    await page.wait_for_function("() => (document.querySelector('.answer-text')?.textContent ?? '').length > 60")
    await process.kill()
    await expect(line(page, "Reconnecting")).to_be_visible()
    await process.launch("--port", process.url.rsplit(":", 1)[1])
    await expect(line(page, "Live")).to_be_visible()
    await expect(answers(page).get_by_text("Cut off: the server went down")).to_be_visible()
    text = await said(page).inner_text()
    await page.reload()
    await expect(answers(page).locator(".cut-note")).to_be_visible()
    assert await said(page).inner_text() == text
    await expect(asked(page)).to_have_count(1)
    await page.locator(".cut").get_by_role("button", name="Answer again").click()
    await expect(button(page, "Stop")).to_be_visible()
    await expect(button(page, "Stop")).to_be_hidden()
    assert len((await said(page).inner_text()).split()) == 100
