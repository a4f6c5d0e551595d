"""A real browser on the real server. Where there is none the tests are skipped, with a line on how to get one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from harness import DEADLINE

# Playwright's own five seconds are for pages, not for what a busy machine does behind them.
expect.set_options(timeout=DEADLINE * 1000)

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
HOW = "no browser: `apt-get install chromium-headless-shell fonts-noto-color-emoji fonts-wqy-zenhei`, or CHROMIUM=/path"

#: Opens a page in a context of its own, with options of Playwright's ``new_context``.
Open = Callable[..., Awaitable[Page]]


def find_browser() -> str | None:
    """The Chromium of this machine."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One browser for all tests, by the address of its DevTools: to start it takes longer than most tests do."""
    path = find_browser()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(HOW)
        pytest.skip(HOW)
    folder = tmp_path_factory.mktemp("chromium")
    own = ("--headless", "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}")
    with (folder / "log").open("wb") as log:
        # In a group of its own: what Debian calls the browser is a script that starts it.
        process = subprocess.Popen([path, *FLAGS, *own], stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + DEADLINE
        while not (found := re.search(r"DevTools listening on (ws://\S+)", (folder / "log").read_text())):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "the browser does not say where it listens"
            time.sleep(0.02)
        yield found[1]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
async def browser(devtools: str) -> AsyncIterator[Browser]:
    """The browser, for the loop of one test."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(devtools)
        yield browser
        await browser.close()


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[Open]:
    """What opens pages. A page that throws, or breaks its own policy, fails the test."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    async def open_page(url: str, *, context: BrowserContext | None = None, **options: object) -> Page:
        if context is None:
            context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})  # type: ignore[arg-type]
            contexts.append(context)
        context.set_default_timeout(DEADLINE * 1000)
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        await page.goto(url)
        await page.get_by_role("textbox", name="Message", exact=True).wait_for()
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert faults == []
