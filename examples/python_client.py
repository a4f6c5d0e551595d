"""Talk to a threadwire server from Python.

    threadwire serve &
    python examples/python_client.py "What can you do?" "Say it shorter."

Each argument is one turn of the same conversation; the answer is printed as it comes. Ctrl-C stops the turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from threadwire.client import Disconnected, TurnLost, connect
from threadwire.protocol import AckFrame, GapFrame, RunFinishedFrame, TokenFrame, ToolCallFrame, ToolResultFrame

URL = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")


async def talk(messages: list[str]) -> int:
    """Send each message, print what comes, and return the exit code."""
    async with connect(URL, token=os.environ.get("THREADWIRE_TOKEN")) as chat:
        print(f"thread {chat.thread_id}, model {chat.ready.model.get('name')}", file=sys.stderr)
        for message in messages:
            turn = chat.send(message)
            on_ctrl_c(turn.cancel)
            async for frame in turn:
                match frame:
                    case TokenFrame():
                        print(frame.content, end="", flush=True)
                    case ToolCallFrame():
                        print(f"\n[{frame.name} {frame.args}]", file=sys.stderr)
                    case ToolResultFrame():
                        print(f"[{frame.name}: {frame.status}]", file=sys.stderr)
                    case GapFrame():
                        print("\n[some of the answer was lost on the way]", file=sys.stderr)
                    case RunFinishedFrame(status="failed" | "lost", error=error):
                        print(f"\n{error.message if error else frame.reason}", file=sys.stderr)
                        return 1
            print()
    return 0


def on_ctrl_c(cancel: Callable[[], Coroutine[Any, Any, AckFrame]]) -> None:
    """Have Ctrl-C stop the turn; where a loop cannot be told of signals (Windows), it ends the program."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        task = loop.create_task(cancel())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    tasks: set[asyncio.Task[AckFrame]] = set()
    with contextlib.suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, stop)


def main() -> int:
    """Run the conversation that the arguments are."""
    try:
        return asyncio.run(talk(sys.argv[1:] or ["Hello!"]))
    except Disconnected as error:
        print(f"no connection to {URL}: {error}", file=sys.stderr)
    except TurnLost as lost:
        answer = lost.history.messages[-1].content if lost.history else "unknown"
        print(f"the end of the answer was lost; the thread says: {answer}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
