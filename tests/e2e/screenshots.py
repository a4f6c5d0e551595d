"""The pictures of the README and the docs, taken of the real page on the real server: ``make screenshots``."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import tempfile
import urllib.request
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from e2e.conftest import FLAGS, HOW, find_browser
from e2e.steps import SHOWCASE, button, say
from process import ServerProcess

ROOT = Path(__file__).parent.parent.parent

PHONE = {"width": 390, "height": 780}
DESK = {"width": 1280, "height": 800}
#: Titles that a list of threads would have.
OLDER = (
    "Plan a week in Lisbon",
    "الفرق بين الخيوط والعمليات",
    "Refactor the billing module",
    "東京の天気は？",
    "Birthday poem for Ada 🎂",
    "SQL: top ten customers by month",
)


async def settled(page: Page) -> None:
    """Until the answer is whole and nothing runs."""
    await button(page, "Stop").wait_for(state="hidden")
    await page.get_by_role("button", name="Answer again").last.wait_for()


class Camera:
    """Opens pages and takes pictures."""

    def __init__(self, browser: Browser, url: str, folder: Path) -> None:
        self._browser = browser
        self._url = url
        self._folder = folder

    async def open(self, scheme: str, size: dict[str, int], path: str = "/") -> Page:
        context = await self._browser.new_context(
            viewport=size,  # type: ignore[arg-type]
            color_scheme=scheme,  # type: ignore[arg-type]
            device_scale_factor=2 if size is PHONE else 1.5,
            has_touch=size is PHONE,
            reduced_motion="reduce",
        )
        page = await context.new_page()
        await page.goto(self._url + path)
        return page

    async def take(self, page: Page, name: str) -> None:
        # The sidebar is read again a moment after a run's end.
        await page.wait_for_timeout(700)
        await page.screenshot(path=self._folder / f"{name}.png")
        print(name, flush=True)


async def chat_pictures(camera: Camera, scheme: str) -> None:
    page = await camera.open(scheme, DESK)
    await page.get_by_role("status").get_by_text("Live").wait_for()
    await camera.take(page, f"empty-{scheme}")
    await say(page, "Why are cursors better than queues?")
    await settled(page)
    await camera.take(page, f"chat-{scheme}")
    await page.get_by_role("button", name="New chat").click()
    await say(page, "What time is it in Tokyo, and do I need an umbrella?")
    await settled(page)
    await page.locator("details.tool", has_text="weather").locator("summary").click()
    await camera.take(page, f"tools-{scheme}")
    await page.get_by_role("button", name="Behind the scenes").click()
    await say(page, "And tomorrow?")
    await settled(page)
    await camera.take(page, f"drawer-{scheme}")
    await page.get_by_role("button", name="Close", exact=True).click()
    await page.get_by_role("button", name="New chat").click()
    await say(page, "I want my money back for A1002")
    await page.get_by_role("form", name="The assistant asks").wait_for()
    await camera.take(page, f"question-{scheme}")


async def other_pictures(camera: Camera) -> None:
    page = await camera.open("light", PHONE)
    await say(page, "What time is it in Tokyo, and do I need an umbrella?")
    await settled(page)
    await camera.take(page, "phone-light")
    await page.get_by_role("button", name="Threads", exact=True).click()
    await camera.take(page, "phone-threads-light")
    page = await camera.open("dark", PHONE)
    await say(page, "Why are cursors better than queues?")
    await settled(page)
    await camera.take(page, "phone-dark")


async def wall_picture(camera: Camera, scheme: str) -> None:
    page = await camera.open(scheme, {"width": 1440, "height": 900}, "/?wall=24")
    await page.wait_for_timeout(6000)
    await camera.take(page, f"wall-{scheme}")


async def line_picture(camera: Camera, server: ServerProcess) -> None:
    """What is typed while the server is away."""
    page = await camera.open("light", DESK)
    await say(page, "What time is it in Tokyo, and do I need an umbrella?")
    await settled(page)
    await server.kill()
    await page.get_by_role("status").get_by_text("Reconnecting").wait_for()
    await say(page, "Are you still there?")
    await camera.take(page, "waiting-light")


def fill(url: str) -> None:
    """Threads that were there before."""
    for title in reversed(OLDER):
        body = json.dumps({"metadata": {"title": title}}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{url}/threads", body)).close()


async def main(folder: Path) -> None:
    path = find_browser()
    if path is None:
        raise SystemExit(HOW)
    with tempfile.TemporaryDirectory() as scratch:
        scripted, simulated = (ServerProcess(Path(scratch), name) for name in ("scripted", "simulated"))
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
            try:
                database = f"sqlite:///{scratch}/simulated.db"
                await scripted.start(f"{SHOWCASE}:scripted")
                await simulated.start(storage__url=database)
                fill(scripted.url)
                for scheme in ("light", "dark"):
                    await chat_pictures(Camera(browser, scripted.url, folder), scheme)
                    await wall_picture(Camera(browser, simulated.url, folder), scheme)
                await other_pictures(Camera(browser, scripted.url, folder))
                await line_picture(Camera(browser, scripted.url, folder), scripted)
            finally:
                await browser.close()
                await scripted.kill()
                await simulated.kill()


def publish(folder: Path) -> None:
    """Give the docs the pictures that they show."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {name for page in pages for name in re.findall(r"images/([\w-]+\.png)", page.read_text(encoding="utf-8"))}
    (ROOT / "docs" / "images").mkdir(exist_ok=True)
    for name in sorted(shown):
        shutil.copyfile(folder / name, ROOT / "docs" / "images" / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "screenshots")
    chosen = parser.parse_args().folder
    chosen.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(chosen))
    publish(chosen)
