"""How smooth the page is while an answer streams: frames drawn, frames dropped, what moved. Needs a Chromium.

PYTHONPATH=tests .venv/bin/python benchmarks/page.py [--tokens-per-second 200]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

from playwright.async_api import CDPSession, async_playwright

from e2e.conftest import FLAGS, HOW, find_browser
from e2e.steps import button, say
from process import ServerProcess

WATCH = """() => {
  window.seen = {intervals: [], long: [], shift: 0};
  new PerformanceObserver((list) => list.getEntries().forEach((e) => window.seen.long.push(e.duration)))
    .observe({type: 'longtask'});
  new PerformanceObserver((list) => list.getEntries().forEach((e) => { window.seen.shift += e.value; }))
    .observe({type: 'layout-shift'});
  let last = performance.now();
  const frame = (now) => { window.seen.intervals.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""


async def metrics(devtools: CDPSession) -> dict[str, float]:
    """The browser's own counters."""
    found = await devtools.send("Performance.getMetrics")
    return {each["name"]: each["value"] for each in found["metrics"]}


async def main(speed: int, seconds: int) -> None:
    path = find_browser()
    if path is None:
        raise SystemExit(HOW)
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder))
        await server.start()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            await page.goto(server.url)
            await say(page, "warm up")
            await button(page, "Answer again").wait_for()
            await page.evaluate(WATCH)
            devtools = await page.context.new_cdp_session(page)
            # CPU time of the page's thread, whatever else the machine does meanwhile.
            await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = await metrics(devtools)
            await say(page, f"/tokens {speed * seconds}\n/tokens-per-second {speed}")
            await button(page, "Stop").wait_for()
            await button(page, "Stop").wait_for(state="hidden", timeout=(seconds + 60) * 1000)
            seen = await page.evaluate("() => window.seen")
            spent = {name: value - before[name] for name, value in (await metrics(devtools)).items()}
            await browser.close()
        await server.kill()
    intervals = sorted(seen["intervals"])
    print(f"{speed} tokens/s for {seconds} s: {len(intervals)} frames drawn")
    print(f"between frames: median {statistics.median(intervals):.1f} ms, worst {intervals[-1]:.1f} ms")
    print(f"later than two frames (33.4 ms): {sum(each > 33.4 for each in intervals)}")
    parts = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
    busy = {name.removesuffix("Duration"): round(spent[name] * 1000 / len(intervals), 2) for name in parts}
    print(f"CPU of the page's thread, ms a frame: {busy}")
    print(f"tasks over 50 ms: {len(seen['long'])}; layout shift: {seen['shift']:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens-per-second", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=20)
    asked = parser.parse_args()
    asyncio.run(main(asked.tokens_per_second, asked.seconds))
