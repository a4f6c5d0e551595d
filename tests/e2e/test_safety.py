"""What comes over the wire is never markup, and what the page may do is bounded by its policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from yarl import URL

from conftest import Serve
from e2e.conftest import Open
from e2e.steps import SHOWCASE, answers, asked, button, say

ROOT = Path(__file__).parent.parent.parent
ATTACKS = (
    "<script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 2">',
    "[click](javascript:window.hacked=3)",
    "<a href='javascript:window.hacked=4'>click</a>",
    "![x](javascript:window.hacked=5)",
    "<svg onload=window.hacked=6><iframe srcdoc='<script>parent.hacked=7</script>'></iframe>",
    '<style>* {display: none}</style><div style="position: fixed; inset: 0">over</div>',
    "```<img src=x onerror=window.hacked=8>\n<img src=x onerror=window.hacked=9>\n```",
    "[x]: javascript:window.hacked=10\n\n[x]",
    "<javascript:window.hacked=11>",
    "<form action=/threads><input name=a><button>send</button></form>",
    '[a](https://example.org/"onmouseover=window.hacked=12)',
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.hacked=13&gt;'>",
)
ALL = "\n\n".join(ATTACKS)


async def unharmed(page: Page) -> None:
    """Nothing of it ran, nothing of it is an element, and no link leads to a script."""
    for link in await page.get_by_role("log").locator("a:not([href^='http'])").all():
        await link.dispatch_event("click")
    assert await page.evaluate("window.hacked") is None
    log = page.get_by_role("log")
    elements = "script, iframe, object, embed, style, form:not(.question), math, svg:not(.icon)"
    assert await log.locator(elements).count() == 0
    assert await log.locator("[onerror], [onload], [onmouseover], [style]").count() == 0
    links = await log.locator("a[href]").evaluate_all("links => links.map(link => link.protocol)")
    assert set(links) <= {"https:", "http:", "mailto:"}, links
    assert await log.locator("img:not([src^='data:image/'])").count() == 0


@pytest.mark.parametrize("graph", ["repeating", "nasty", "asking"])
async def test_what_is_said_runs_nothing(serve: Serve, open_page: Open, graph: str) -> None:
    """Markup in messages, answers, arguments and results of tools, and questions does nothing; raw HTML is text."""
    served = await serve(f"{SHOWCASE}:{graph}")
    page = await open_page(served.url)
    await say(page, ALL)
    await expect(asked(page)).to_contain_text("<script>window.hacked = 1</script>")
    if graph == "repeating":
        await expect(answers(page)).to_contain_text("<script>window.hacked = 1</script>")
        await expect(button(page, "Answer again")).to_be_visible()
    elif graph == "nasty":
        await page.locator("details.tool summary").click()
        await expect(page.get_by_label("Result", exact=True)).to_contain_text("<script>window.hacked = 1</script>")
    else:
        await expect(page.get_by_role("form", name="The assistant asks")).to_contain_text("<script>")
    await button(page, "Behind the scenes").click()
    await unharmed(page)
    await page.reload()
    await expect(asked(page)).to_contain_text("<script>")
    await unharmed(page)


async def test_titles_run_nothing(serve: Serve, open_page: Open) -> None:
    """A thread's title is text, in the list and above the conversation."""
    served = await serve()
    for number, attack in enumerate(ATTACKS):
        body = {"thread_id": f"t{number}", "metadata": {"title": attack}}
        async with served.session.post(f"{served.url}/threads", json=body) as response:
            assert response.status == 200
    page = await open_page(f"{served.url}/#/t/t1")
    await expect(page.get_by_role("heading", level=1)).to_have_text(ATTACKS[1])
    await expect(page.get_by_role("navigation").get_by_role("listitem")).to_have_count(len(ATTACKS))
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("nav script, nav iframe, nav img[src=x], nav [onerror]").count() == 0


async def test_the_policy_stops_what_gets_in(serve: Serve, browser: Browser) -> None:
    """Even code on the page can make no markup of text, no policy of its own, and reach nothing elsewhere."""
    served = await serve()
    page = await browser.new_page()
    await page.goto(served.url)
    blocked = await page.evaluate(
        """async () => {
          const blocked = [];
          try { document.body.insertAdjacentHTML('beforeend', '<b>x</b>'); } catch (e) { blocked.push(e.name); }
          try { trustedTypes.createPolicy('other', {createHTML: (t) => t}); } catch (e) { blocked.push(e.name); }
          try { await fetch('http://127.0.0.1:9/'); } catch (e) { blocked.push(e.name); }
          return blocked;
        }"""
    )
    assert blocked == ["TypeError", "TypeError", "TypeError"]


async def test_headers_of_the_page(serve: Serve) -> None:
    """Each file of the client comes with the policy, and is what it says it is."""
    served = await serve()
    kinds = {"/": "text/html", "/client/threadwire.js": "text/javascript", "/client/page/base.css": "text/css"}
    for path, kind in kinds.items():
        async with served.session.get(f"{served.url}{path}") as response:
            assert response.status == 200, path
            assert response.content_type == kind
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
            assert "require-trusted-types-for 'script'" in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "same-origin"
            tag = response.headers["ETag"]
        async with served.session.get(f"{served.url}{path}", headers={"If-None-Match": tag}) as response:
            assert response.status == 304


@pytest.mark.parametrize(
    "path",
    [
        "/client/../pyproject.toml",
        "/client/%2e%2e/pyproject.toml",
        "/client/..%2f..%2fetc%2fpasswd",
        "/client//etc/passwd",
        "/client/page",
        "/client/page/",
        "/client/nothing.js",
        "/client/vendor/.installed",
    ],
)
async def test_nothing_else_is_served(serve: Serve, path: str) -> None:
    """There is no way out of the client's folder, and no list of what is in it."""
    served = await serve()
    async with served.session.get(URL(f"{served.url}{path}", encoded=True)) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "not_found"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_serious_for_axe(serve: Serve, open_page: Open, scheme: str) -> None:
    """axe-core finds nothing serious: in a conversation with all it may hold, drawer, menu and form open."""
    served = await serve(f"{SHOWCASE}:scripted")
    page = await open_page(served.url, color_scheme=scheme, reduced_motion="reduce")
    axe = (ROOT / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    await serious(page, axe)
    for text in ("Why are cursors better than queues?", "What time is it in Tokyo, and do I need an umbrella?"):
        await say(page, text)
        await expect(button(page, "Stop")).to_be_hidden()
    await page.locator("details.tool summary").first.click()
    await button(page, "Behind the scenes").click()
    await page.get_by_text("Filters", exact=True).click()
    await serious(page, axe)
    await say(page, "I want my money back for A1002")
    await expect(page.get_by_role("form", name="The assistant asks")).to_be_visible()
    await page.get_by_role("button", name="More about").first.click()
    await serious(page, axe)


async def serious(page: Page, axe: str) -> None:
    """Fail on what axe-core finds serious or critical."""
    found = await page.evaluate(
        f"""async () => {{
          {axe};
          const {{ violations }} = await axe.run(document);
          return violations.filter(({{ impact }}) => impact === 'serious' || impact === 'critical')
            .map(({{ id, nodes }}) => [id, ...nodes.map((node) => node.html.slice(0, 200) + node.failureSummary)]);
        }}"""
    )
    assert found == [], json.dumps(found, indent=2)
