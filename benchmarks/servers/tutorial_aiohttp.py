"""The tutorial's WebSocket chat, on aiohttp: ``python -m benchmarks.servers.tutorial_aiohttp PORT``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, web
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.servers.tutorial import build


async def chat(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    graph = request.app["graph"]
    config = {"configurable": {"thread_id": request.match_info["thread_id"]}}
    async for message in ws:
        if message.type != WSMsgType.TEXT:
            continue
        inputs = {"messages": [("user", message.json()["message"])]}
        async for event in graph.astream_events(inputs, config, version="v2"):
            if event["event"] == "on_chat_model_stream" and event["data"]["chunk"].content:
                await ws.send_json({"type": "token", "content": event["data"]["chunk"].content})
        await ws.send_json({"type": "end"})
    return ws


async def checkpointer(app: web.Application) -> AsyncIterator[None]:
    async with AsyncSqliteSaver.from_conn_string("chat.db") as saver:
        app["graph"] = build(saver)
        yield


if __name__ == "__main__":
    app = web.Application()
    app.cleanup_ctx.append(checkpointer)
    app.router.add_get("/ws/{thread_id}", chat)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None)
