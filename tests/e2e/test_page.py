"""The page, used as a person would: typed into, clicked on, looked at."""

from __future__ import annotations

import asyncio
import os
import re
import struct
import zlib

import pytest
from playwright.async_api import FilePayload, expect

from conftest import Serve
from e2e.conftest import Open
from e2e.steps import SHOWCASE, answers, asked, box, button, say
from harness import eventually


async def test_a_conversation(serve: Serve, open_page: Open) -> None:
    """A message is answered; the thread has an address, a place in the list and a title; the box is empty again."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "Hello page")
    await expect(asked(page)).to_contain_text("Hello page")
    await expect(answers(page)).to_contain_text("You said: Hello page")
    await expect(page.get_by_role("link", name="Hello page")).to_have_attribute("aria-current", "page")
    await expect(box(page)).to_have_value("")
    await expect(page.get_by_role("status").get_by_text("Live")).to_be_visible()
    await expect(answers(page)).to_contain_text("tokens")
    assert "#/t/" in page.url


async def test_by_keyboard_alone(serve: Serve, open_page: Open) -> None:
    """Shift+Enter makes a line, Enter sends, Escape stops, and the box has the focus from the start."""
    served = await serve()
    page = await open_page(served.url)
    await page.keyboard.type("/tokens 100000")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("/tokens-per-second 50")
    await page.keyboard.press("Enter")
    await expect(answers(page)).to_contain_text(" ")
    await page.keyboard.press("Escape")
    await expect(answers(page)).to_contain_text("Stopped")
    await expect(button(page, "Stop")).to_be_hidden()
    assert await asked(page).locator("p").inner_text() == "/tokens 100000\n/tokens-per-second 50"


async def test_stop_keeps_what_was_said(serve: Serve, open_page: Open) -> None:
    """The stop button is there while something runs; what was said stays, marked, also after a reload."""
    served = await serve()
    page = await open_page(served.url)
    await expect(button(page, "Stop")).to_be_hidden()
    await say(page, "/tokens 100000\n/tokens-per-second 50")
    await expect(answers(page).locator(".answer-text")).not_to_be_empty()
    await button(page, "Stop").click()
    await expect(answers(page).get_by_text("Stopped")).to_be_visible()
    text = await answers(page).locator(".answer-text").inner_text()
    await page.reload()
    await expect(answers(page).get_by_text("Stopped")).to_be_visible()
    assert await answers(page).locator(".answer-text").inner_text() == text


async def test_what_is_said_meanwhile_waits_in_line(serve: Serve, open_page: Open) -> None:
    """A message sent while another is answered waits behind it, seen; it can be taken back, or has its turn."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "/tokens 100000\n/tokens-per-second 50")
    await expect(button(page, "Stop")).to_be_visible()
    await say(page, "second")
    await say(page, "third")
    await expect(page.get_by_text("Next in line")).to_have_count(2)
    await asked(page).filter(has_text="second").get_by_role("button", name="Remove").click()
    await expect(asked(page)).to_have_count(2)
    await button(page, "Stop").click()
    await expect(answers(page).last).to_contain_text("You said: third")
    log = await page.get_by_role("log").inner_text()
    assert log.index("Stopped") < log.index("third") < log.index("You said: third")


async def test_a_tool_is_a_card(serve: Serve, open_page: Open) -> None:
    """A tool call is a card with its name and arguments, and its result behind one fold."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, '/tool calculate {"expression": "6 * 7"}')
    card = page.locator("details.tool")
    await expect(card).to_contain_text("calculate")
    await expect(card).to_contain_text("expression: 6 * 7")
    await expect(answers(page).last).to_contain_text("The tool said: 42")
    await card.locator("summary").click()
    await expect(card.get_by_label("Result")).to_have_text("42")
    await page.reload()
    await card.locator("summary").click()
    await expect(card.get_by_label("Result")).to_have_text("42")


async def test_a_tool_that_runs_spins(serve: Serve, open_page: Open) -> None:
    """While a tool runs its card says so; stopped, it is an error."""
    served = await serve("thread_graphs:working")
    page = await open_page(served.url)
    await say(page, "hang")
    await expect(page.locator("details.tool .spinner")).to_be_visible()
    await button(page, "Stop").click()
    await expect(page.locator("details.tool")).to_have_attribute("data-status", "error")


async def test_reasoning_is_folded(serve: Serve, open_page: Open) -> None:
    """What the model thought is there, and folded."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "/reasoning Let me think about it.\nhi")
    await expect(answers(page)).to_contain_text("You said")
    thought = page.get_by_text("Let me think about it.").nth(-1)
    await expect(answers(page).locator(".thought-text")).to_be_hidden()
    await answers(page).get_by_text("Thought", exact=True).click()
    await expect(answers(page).locator(".thought-text")).to_be_visible()
    assert await thought.count() == 1


async def test_a_failure_is_said_in_words(serve: Serve, open_page: Open) -> None:
    """An answer that fails leaves a note with the server's words, and a way to try again."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "/error")
    await expect(page.locator(".cut-note")).to_be_visible()
    await expect(button(page, "Answer again")).to_be_visible()


@pytest.mark.parametrize(
    ("graph", "clicks", "answer"),
    [
        ("asking", ["yes"], "You said yes."),
        ("reviewing", ["Answer"], "Decided: {'type': 'approve'}"),
        ("wondering", ["Approve"], "I got True."),
    ],
)
async def test_a_question_is_answered(
    serve: Serve, open_page: Open, graph: str, clicks: list[str], answer: str
) -> None:
    """What the graph asks is a form; the answer goes on with the run; a reload in between loses nothing."""
    served = await serve(f"{SHOWCASE}:{graph}")
    page = await open_page(served.url)
    await say(page, "May I?")
    form = page.get_by_role("form", name="The assistant asks")
    await expect(form).to_be_visible()
    await page.reload()
    for name in clicks:
        await form.get_by_role("button", name=name, exact=True).click()
    await expect(answers(page)).to_contain_text(answer)
    await expect(form).to_be_hidden()


@pytest.mark.parametrize("graph", ["asking", "reviewing", "wondering"])
async def test_a_question_is_left_unanswered(serve: Serve, open_page: Open, graph: str) -> None:
    """Who does not want to answer goes on with what they have said since; nothing asks again after a reload."""
    served = await serve(f"{SHOWCASE}:{graph}")
    page = await open_page(served.url)
    await say(page, "May I?")
    form = page.get_by_role("form", name="The assistant asks")
    await form.get_by_role("button", name="Skip this").click()
    await expect(form).to_be_hidden()
    await page.reload()
    await expect(asked(page)).to_have_count(1)
    await expect(form).to_be_hidden()
    await say(page, "Never mind.")
    await expect(asked(page)).to_have_count(2)
    await expect(form).to_be_visible()
    await say(page, "And this waits.")
    await expect(page.get_by_text("Next in line")).to_be_visible()
    await form.get_by_role("button", name="Skip this").click()
    await expect(page.get_by_text("Next in line")).to_be_hidden()


async def test_a_tool_call_is_edited_or_rejected(serve: Serve, open_page: Open) -> None:
    """Arguments can be changed before they are approved; what is no JSON is not sent; a rejection has a reason."""
    served = await serve(f"{SHOWCASE}:reviewing")
    page = await open_page(served.url)
    await say(page, "May I?")
    form = page.get_by_role("form", name="The assistant asks")
    await form.get_by_label("Edit", exact=True).check()
    await form.get_by_label("Arguments of refund").fill("{")
    await form.get_by_role("button", name="Answer").click()
    await expect(form.get_by_role("alert")).to_contain_text("not JSON")
    await form.get_by_label("Arguments of refund").fill('{"order": "A1", "amount": 1}')
    await form.get_by_role("button", name="Answer").click()
    await expect(answers(page)).to_contain_text("'amount': 1")
    await say(page, "And again?")
    await form.get_by_label("Reject", exact=True).check()
    await form.get_by_label("Why not").fill("too much")
    await form.get_by_role("button", name="Answer").click()
    await expect(answers(page).last).to_contain_text("too much")


async def test_a_question_takes_any_answer(serve: Serve, open_page: Open) -> None:
    """A question that offers nothing is answered freely, in text or JSON."""
    served = await serve(f"{SHOWCASE}:wondering")
    page = await open_page(served.url)
    for said, got in (("just text", "'just text'"), ('{"a": [1]}', "{'a': [1]}")):
        await say(page, "Well")
        await page.get_by_label("Your answer").fill(said)
        await button(page, "Send answer").click()
        await expect(answers(page).last).to_contain_text(got)


async def test_markdown(serve: Serve, open_page: Open) -> None:
    """Answers are Markdown: headings, lists, tables, links that open elsewhere, code with colours and a copy button."""
    served = await serve(f"{SHOWCASE}:repeating")
    page = await open_page(served.url)
    blocks = ("## Head", "- one\n- two", "| a | b |\n|---|---|\n| 1 | 2 |", "[link](https://example.org)")
    await say(page, "\n\n".join((*blocks, "```python\ndef f(): pass\n```")))
    answer = answers(page)
    await expect(answer.get_by_role("heading", name="Head")).to_be_visible()
    await expect(answer.get_by_role("listitem")).to_have_count(2)
    await expect(answer.get_by_role("cell", name="1")).to_be_visible()
    link = answer.get_by_role("link", name="link")
    await expect(link).to_have_attribute("rel", "noopener noreferrer")
    await expect(link).to_have_attribute("target", "_blank")
    await expect(answer.locator(".hljs-keyword").first).to_have_text("def")
    await expect(answer.locator(".code").get_by_role("button", name="Copy")).to_be_visible()
    # The same from the thread as it is stored.
    html = await answer.locator(".answer-text").inner_html()
    await page.reload()
    await expect(answer.locator(".hljs-keyword").first).to_have_text("def")
    text = re.sub(r'<div class="tail">.*', "", html)
    assert re.sub(r'<div class="tail">.*', "", await answer.locator(".answer-text").inner_html()) == text


def noise(side: int) -> bytes:
    """A picture that hardly shrinks, as PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + os.urandom(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


async def test_pictures_and_files_go_along(serve: Serve, open_page: Open) -> None:
    """A picture that is too large is made smaller, text goes as text; both are seen in the message."""
    served = await serve(f"{SHOWCASE}:repeating", server={"max_message_bytes": 200_000})
    page = await open_page(served.url)
    picture = FilePayload(name="noise.png", mimeType="image/png", buffer=noise(400))
    notes = FilePayload(name="notes.md", mimeType="text/markdown", buffer=b"# Notes")
    await page.get_by_label("Files", exact=True).set_input_files([picture, notes])
    await expect(page.locator(".chip")).to_have_count(2)
    await say(page, "look at these")
    await expect(answers(page)).to_contain_text("look at these")
    await expect(asked(page).get_by_role("img", name="Picture you sent")).to_be_visible()
    await expect(asked(page)).to_contain_text("notes.md")
    [thread_id] = re.findall(r"#/t/(.+)", page.url)
    content = (await served.history(thread_id))[0]["content"]
    assert [block["type"] for block in content] == ["text", "image", "text-plain"]
    assert content[2]["text"] == "# Notes"


async def test_threads_are_kept(serve: Serve, open_page: Open) -> None:
    """Threads are found, renamed, deleted after an undo that was not used, and exported."""
    served = await serve()
    page = await open_page(served.url)
    for text in ("first thread", "second thread"):
        await button(page, "New chat").click()
        await say(page, text)
        await expect(answers(page)).to_contain_text(text)
    threads = page.get_by_role("navigation", name="Threads")
    await expect(threads.get_by_role("link", name="thread")).to_have_text(["second thread", "first thread"])
    await threads.get_by_label("Search threads").fill("first")
    await expect(threads.get_by_role("link", name="second thread")).to_be_hidden()
    await threads.get_by_label("Search threads").fill("")
    await threads.get_by_role("link", name="first thread").hover()
    await button(page, "More about first thread").click()
    await page.get_by_role("menuitem", name="Rename").click()
    await page.get_by_label("Title").fill("<b>renamed</b>")
    await page.keyboard.press("Enter")
    await expect(threads.get_by_role("link", name="<b>renamed</b>")).to_be_visible()
    await button(page, "More about second thread").click()
    async with page.expect_download() as download:
        await page.get_by_role("menuitem", name="Export as Markdown").click()
    saved = await (await download.value).path()
    assert "# second thread" in await asyncio.to_thread(saved.read_text)


async def test_a_deletion_can_be_undone(serve: Serve, open_page: Open) -> None:
    """A deleted thread is gone from the list; undone it is back; else it is gone for good once the page goes."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "to be deleted")
    await expect(answers(page)).to_contain_text("to be deleted")
    link = page.get_by_role("link", name="to be deleted")
    for undo in (True, False):
        await link.hover()
        await button(page, "More about to be deleted").click()
        await page.get_by_role("menuitem", name="Delete").click()
        await expect(link).to_be_hidden()
        if undo:
            await button(page, "Undo").click()
            await expect(link).to_be_visible()
    await page.goto("about:blank")

    async def gone() -> bool:
        async with served.session.post(f"{served.url}/threads/count", json={}) as response:
            return bool(await response.json() == 0)

    await eventually(gone, "the thread is deleted")


async def test_switching_loses_nothing(serve: Serve, open_page: Open) -> None:
    """A thread that is left while it streams goes on, and is whole when one comes back."""
    served = await serve(runs={"disconnect_grace_seconds": 0})
    page = await open_page(served.url)
    await say(page, "/tokens 300\n/tokens-per-second 300")
    await expect(answers(page).locator(".answer-text")).not_to_be_empty()
    await button(page, "New chat").click()
    await say(page, "another")
    await expect(answers(page)).to_contain_text("You said: another")
    # Ended before it is left, or its own button would be taken for the other's.
    await expect(button(page, "Answer again")).to_be_visible()
    await page.get_by_role("link", name="/tokens 300").click()
    await expect(page.get_by_text("You said: another")).to_have_count(0)
    await expect(button(page, "Answer again")).to_be_visible()
    await expect(page.get_by_text("Stopped")).to_have_count(0)
    text = await answers(page).locator(".answer-text").inner_text()
    assert len(text.split()) == 300


async def test_behind_the_scenes(serve: Serve, open_page: Open) -> None:
    """The drawer shows frames as they pass; a filter acts at once, and what it hid is read again after."""
    served = await serve()
    page = await open_page(served.url)
    await button(page, "Behind the scenes").click()
    frames = page.get_by_role("list", name="Frames")
    await say(page, "one")
    await expect(answers(page)).to_contain_text("You said: one")
    for kind in ("ready", "send", "ack", "run_started", "token", "run_finished"):
        await expect(frames.get_by_text(kind, exact=True).first).to_be_visible()
    await page.get_by_text("Filters", exact=True).click()
    await page.get_by_role("group", name="Not").get_by_label("chat_model").check()
    await expect(frames.get_by_text("subscribe", exact=True)).to_be_visible()
    await say(page, "two")
    await expect(frames.get_by_text("run_finished", exact=True)).to_have_count(2)
    await expect(page.get_by_text("You said: two")).to_have_count(0)
    await button(page, "Show all").click()
    await expect(answers(page).last).to_contain_text("You said: two")
    await button(page, "NDJSON").click()
    await expect(page.get_by_label("Raw NDJSON")).to_contain_text('{"type":"run_started"')


async def test_the_wall(serve: Serve, open_page: Open) -> None:
    """As many sessions as asked for stream at once, each measured; their threads can be deleted together."""
    served = await serve()
    page = await open_page(served.url)
    await page.goto(f"{served.url}/?wall=6")
    await expect(page.get_by_role("article")).to_have_count(6)
    await expect(page.get_by_text(re.compile(r"^first word \d+ ms"))).to_have_count(6)
    await page.get_by_role("button", name="Delete these threads").click()
    await expect(page.get_by_text("No conversations yet.")).to_be_visible()


async def test_other_scripts_are_right(serve: Serve, open_page: Open) -> None:
    """Right-to-left text runs from the right, in the message and in the answer; CJK and emoji have their glyphs."""
    served = await serve(f"{SHOWCASE}:repeating")
    page = await open_page(served.url)
    await say(page, "مرحبا بالعالم")
    await expect(answers(page)).to_contain_text("مرحبا")
    for paragraph in (asked(page).locator("p"), answers(page).locator("p")):
        assert await paragraph.evaluate("e => getComputedStyle(e).direction") == "rtl"
    glyphs = await page.evaluate(
        """() => {
          const context = new OffscreenCanvas(60, 60).getContext('2d', {willReadFrequently: true});
          context.font = '40px ' + getComputedStyle(document.body).fontFamily;
          return ['東', '語', '🌙', '\\u{10FFFE}'].map((text) => {
            context.clearRect(0, 0, 60, 60);
            context.fillText(text, 5, 45);
            return context.getImageData(0, 0, 60, 60).data.join();
          });
        }"""
    )
    assert len(set(glyphs)) == 4, "all look alike: a font is missing"
