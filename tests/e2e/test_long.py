"""Long conversations, and answers that come fast."""

from __future__ import annotations

from playwright.async_api import expect

from conftest import Serve
from e2e.conftest import Open
from e2e.steps import SHOWCASE, button, said, say

COUNT = 5000


async def test_five_thousand_messages_scroll(serve: Serve, open_page: Open) -> None:
    """The newest are there at once; older ones come as one scrolls to them, down to the first, and nothing jumps."""
    served = await serve(f"{SHOWCASE}:filling")
    socket = await served.attach("long")
    await socket.turn(str(COUNT))
    await socket.ws.close()
    page = await open_page(f"{served.url}/#/t/long")
    await expect(page.get_by_text(f"message {COUNT - 1}", exact=True)).to_be_in_viewport()
    assert await page.locator(".entry").count() < 100
    await page.get_by_role("region", name="Messages").focus()
    # What is read stays where it is while older messages are put in above it.
    moved = await page.evaluate(
        """async () => {
          const scroller = document.querySelector('.scroller'), list = document.querySelector('.entries');
          const frame = () => new Promise(requestAnimationFrame);
          const entries = () => list.childElementCount;
          let worst = 0;
          for (let page = 0; page < 5; page++) {
            const had = entries();
            scroller.scrollTop = 300;
            await frame();
            const seen = [...list.children].find((e) => e.getBoundingClientRect().top > 60);
            let before = NaN;
            while (entries() === had) {
              before = seen.getBoundingClientRect().top;
              await frame();
            }
            for (let i = 0; i < 5; i++) await frame();
            worst = Math.max(worst, Math.abs(seen.getBoundingClientRect().top - before));
          }
          return worst;
        }"""
    )
    assert moved <= 2
    await page.evaluate(
        """async () => {
          const scroller = document.querySelector('.scroller');
          const first = () => document.querySelector('.entries').firstElementChild.textContent;
          while (!first().startsWith('5000')) {
            scroller.scrollTop = 0;
            await new Promise(requestAnimationFrame);
          }
        }"""
    )
    # The message that asked for them, and they.
    assert await page.locator(".entry").count() == COUNT + 1
    # By its class: to look through this many by role takes Playwright longer than the page takes for anything.
    await page.locator(".to-end").click()
    last = page.locator(".entry").last
    await expect(last).to_contain_text(f"message {COUNT - 1}")
    await expect(last).to_be_in_viewport()


async def test_a_fast_answer_is_whole_and_nothing_jumps(serve: Serve, open_page: Open) -> None:
    """At 200 tokens/s the newest words are always in view, what was said does not move, and all of it is there."""
    served = await serve()
    page = await open_page(served.url)
    await page.evaluate(
        """() => {
          window.shifts = [];
          new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
          }).observe({type: 'layout-shift', buffered: false});
          window.gaps = [];
          const scroller = document.querySelector('.scroller');
          const look = () => {
            window.gaps.push(scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight);
            requestAnimationFrame(look);
          };
          requestAnimationFrame(look);
        }"""
    )
    await say(page, "/tokens 1000\n/tokens-per-second 200")
    await expect(button(page, "Stop")).to_be_visible()
    await expect(button(page, "Stop")).to_be_hidden()
    assert len((await said(page).inner_text()).split()) == 1000
    assert await page.evaluate("Math.max(...window.gaps)") <= 60
    # The answer is one text that grows at its end: nothing else has a reason to move.
    assert await page.evaluate("window.shifts.reduce((a, b) => a + b, 0)") < 0.1


async def test_the_end_is_followed_also_where_it_comes_nearer(serve: Serve, open_page: Open) -> None:
    """What gets shorter and longer again while it is followed does not look like a reader who scrolls up."""
    served = await serve(f"{SHOWCASE}:repeating")
    page = await open_page(served.url)
    await say(page, "hello")
    await expect(button(page, "Answer again")).to_be_visible()
    followed = await page.evaluate(
        """async () => {
          const end = document.querySelector('.to-end');
          const text = document.querySelector('.answer-text').appendChild(document.createElement('p'));
          const frame = () => new Promise(requestAnimationFrame);
          let followed = true;
          for (let round = 0; round < 10; round++) {
            text.style.height = '3000px';
            for (let i = 0; i < 3; i++) await frame();
            text.style.height = '2985px';
            // After this frame has been drawn, and before the scroll event of the next one.
            await new Promise((go) => setTimeout(go));
            text.style.height = '3000px';
            for (let i = 0; i < 3; i++) await frame();
            followed &&= end.hidden;
          }
          return followed;
        }"""
    )
    assert followed


async def test_a_reader_who_looks_back_is_left_there(serve: Serve, open_page: Open) -> None:
    """Whoever scrolls up while an answer grows stays where they are, and finds a way back to the newest words."""
    served = await serve()
    page = await open_page(served.url)
    await say(page, "/tokens 6000\n/tokens-per-second 600")
    await page.wait_for_function("() => document.querySelector('.scroller').scrollHeight > 2000")
    await page.get_by_role("region", name="Messages").hover()
    await page.mouse.wheel(0, -800)
    await expect(button(page, "To the newest message")).to_be_visible()
    top = await page.evaluate("document.querySelector('.scroller').scrollTop")
    height = await page.evaluate("document.querySelector('.scroller').scrollHeight")
    await page.wait_for_function(f"() => document.querySelector('.scroller').scrollHeight > {height + 200}")
    assert abs(await page.evaluate("document.querySelector('.scroller').scrollTop") - top) <= 2
    await button(page, "To the newest message").click()
    await expect(button(page, "To the newest message")).to_be_hidden()


async def test_whole_sentences_are_spoken(serve: Serve, open_page: Open) -> None:
    """The live region gets whole sentences, each once, and nothing of what was there before."""
    served = await serve(f"{SHOWCASE}:repeating")
    page = await open_page(served.url)
    await page.evaluate(
        """() => {
          window.spoken = [];
          new MutationObserver((changes) => changes.forEach(({addedNodes}) =>
            addedNodes.forEach((node) => window.spoken.push(node.textContent)))
          ).observe(document.querySelector('#speech'), {childList: true});
        }"""
    )
    await say(page, "First sentence here. And a second one! Is this the third? Yes")
    await page.wait_for_function("() => window.spoken.join('').endsWith('Yes')")
    assert (
        await page.evaluate("window.spoken.join('')") == "First sentence here. And a second one! Is this the third? Yes"
    )
    assert await page.get_by_role("log").get_attribute("aria-live") == "off"
