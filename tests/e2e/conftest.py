"""A real browser on the real server. Where there is none the tests are skipped, with a line on how to get one."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

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


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = find_browser()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(HOW)
        pytest.skip(HOW)
    async with async_playwright() as playwright:
        # Chromium's own profile is a new temporary folder of Playwright's.
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
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
        context.set_default_timeout(15_000)
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


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Where a test may leave pictures of what it saw."""
    return Path(os.environ.get("ARTIFACTS", tmp_path))
