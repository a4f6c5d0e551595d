"""The tutorial's graph behind Chainlit, as Chainlit's page on LangGraph has it; with ``chainlit run``."""

import chainlit as cl
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.servers.tutorial import build

parts = {}


@cl.on_app_startup
async def start() -> None:
    parts["saver"] = AsyncSqliteSaver.from_conn_string("chat.db")
    parts["graph"] = build(await parts["saver"].__aenter__())


@cl.on_app_shutdown
async def stop() -> None:
    await parts["saver"].__aexit__(None, None, None)


@cl.on_message
async def answer(message: cl.Message) -> None:
    config = {"configurable": {"thread_id": cl.context.session.thread_id}}
    inputs = {"messages": [HumanMessage(message.content)]}
    reply = cl.Message(content="")
    async for chunk, _ in parts["graph"].astream(inputs, config, stream_mode="messages"):
        if chunk.content:
            await reply.stream_token(chunk.content)
    await reply.send()
