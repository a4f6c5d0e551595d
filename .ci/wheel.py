"""The built wheel, installed alone, serves: one turn from an empty folder. Run by the Python it is installed in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from threadwire.client import connect

PAGE = ["/", "/client/threadwire.js", "/client/threadwire.d.ts"]
# There only if npm was when the wheel was built.
PAGE += [f"/client/vendor/{path.name}" for path in Path("client_demo/vendor").glob("*.js")]


async def talk(url: str) -> str:
    """One turn; returns the answer."""
    async with connect(url) as chat:
        turn = chat.send("hello from the wheel")
        text = await turn.text()
        finished = await turn.finished()
        if finished.status != "completed":
            raise SystemExit(f"expected a completed run, got {finished}")
        return text


def main() -> None:
    """Serve from an empty folder, talk, stop."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("threadwire")), "serve", "--port", "0"]
        environment = {**os.environ, "THREADWIRE_MODEL__NAME": "simulated"}
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "http://" in line)
            url = "http://" + line.split("http://")[1].split('"')[0].split()[0]
            print("the wheel serves at", url, "and says:", asyncio.run(talk(url)))
            for path in PAGE:
                with urllib.request.urlopen(url + path) as response:
                    print("the wheel carries", path, len(response.read()), "bytes")
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        finally:
            process.kill()
        if code != 0:
            raise SystemExit(f"expected exit code 0 after SIGTERM, got {code}")


if __name__ == "__main__":
    main()
