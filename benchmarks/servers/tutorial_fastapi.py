"""The tutorial's WebSocket chat, on FastAPI: ``python -m benchmarks.servers.tutorial_fastapi PORT``."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.servers.tutorial import build


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncSqliteSaver.from_conn_string("chat.db") as saver:
        app.state.graph = build(saver)
        yield


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws/{thread_id}")
async def chat(websocket: WebSocket, thread_id: str) -> None:
    await websocket.accept()
    graph = websocket.app.state.graph
    config = {"configurable": {"thread_id": thread_id}}
    try:
        while True:
            message = await websocket.receive_json()
            inputs = {"messages": [("user", message["message"])]}
            async for event in graph.astream_events(inputs, config, version="v2"):
                if event["event"] == "on_chat_model_stream" and event["data"]["chunk"].content:
                    await websocket.send_json({"type": "token", "content": event["data"]["chunk"].content})
            await websocket.send_json({"type": "end"})
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
