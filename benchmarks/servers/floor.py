"""The least that aiohttp can do: the provider's stream passed on to a WebSocket, a row in SQLite a turn, no LangChain.

    python -m benchmarks.servers.floor PORT

No promise of any kind is kept here; it shows where the floor is, and what a bare WebSocket takes.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import AsyncIterator

import aiohttp
import orjson
from aiohttp import WSMsgType, web

try:
    import uvloop
except ImportError:
    uvloop = None

URL = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") + "/chat/completions"
KEY = os.environ.get("OPENAI_API_KEY", "")


def remembered(database: sqlite3.Connection, thread_id: str) -> list[dict]:
    rows = database.execute("SELECT role, content FROM messages WHERE thread_id = ? ORDER BY rowid", (thread_id,))
    return [{"role": role, "content": content} for role, content in rows]


async def chat(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    session, database = request.app["session"], request.app["database"]
    thread_id = request.match_info["thread_id"]
    async for message in ws:
        if message.type != WSMsgType.TEXT:
            continue
        asked = {"role": "user", "content": orjson.loads(message.data)["message"]}
        body = {"model": "gpt-4o-mini", "stream": True, "messages": [*remembered(database, thread_id), asked]}
        said = []
        async with session.post(URL, data=orjson.dumps(body), headers={"Authorization": f"Bearer {KEY}"}) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                choices = orjson.loads(line[6:])["choices"]
                if choices and (content := choices[0]["delta"].get("content")):
                    said.append(content)
                    await ws.send_bytes(orjson.dumps({"type": "token", "content": content}))
        with database:
            turn = [(thread_id, "user", asked["content"]), (thread_id, "assistant", "".join(said))]
            database.executemany("INSERT INTO messages VALUES (?, ?, ?)", turn)
        await ws.send_bytes(orjson.dumps({"type": "end"}))
    return ws


async def parts(app: web.Application) -> AsyncIterator[None]:
    app["database"] = database = sqlite3.connect("chat.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE IF NOT EXISTS messages (thread_id TEXT, role TEXT, content TEXT)")
    database.execute("CREATE INDEX IF NOT EXISTS threads ON messages (thread_id)")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as app["session"]:
        yield
    database.close()


if __name__ == "__main__":
    app = web.Application()
    app.cleanup_ctx.append(parts)
    app.router.add_get("/ws/{thread_id}", chat)
    loop = uvloop.new_event_loop() if uvloop else None
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, loop=loop)
