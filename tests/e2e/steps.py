"""What a person does on the page and sees there, by the names that a person knows."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Locator, Page

SHOWCASE = Path(__file__).with_name("showcase.py")


def box(page: Page) -> Locator:
    """Where messages are written."""
    return page.get_by_role("textbox", name="Message", exact=True)


def button(page: Page, name: str) -> Locator:
    """The button of exactly that name."""
    return page.get_by_role("button", name=name, exact=True)


async def say(page: Page, text: str) -> None:
    """Type a message and send it."""
    await box(page).fill(text)
    await page.keyboard.press("Enter")


def answers(page: Page) -> Locator:
    """What the assistant said."""
    return page.get_by_role("log").get_by_role("article", name="Answer", exact=True)


def said(page: Page) -> Locator:
    """The text of the last answer."""
    return answers(page).last.locator(".answer-text")


def asked(page: Page) -> Locator:
    """What the user said."""
    return page.get_by_role("log").get_by_role("article", name="You", exact=True)


def line(page: Page, text: str) -> Locator:
    """The state of the line, if it is that."""
    return page.get_by_role("main").get_by_role("status").get_by_text(text)
