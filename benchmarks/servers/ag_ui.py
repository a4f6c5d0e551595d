"""The tutorial's graph behind ag-ui-langgraph, on FastAPI: ``python -m benchmarks.servers.ag_ui PORT``."""

import asyncio
import sys

import uvicorn
from ag_ui_langgraph import LangGraphAgent, add_langgraph_fastapi_endpoint
from fastapi import FastAPI
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.servers.tutorial import build


async def main() -> None:
    async with AsyncSqliteSaver.from_conn_string("chat.db") as saver:
        app = FastAPI()
        add_langgraph_fastapi_endpoint(app, LangGraphAgent(name="chat", graph=build(saver)), "/")
        config = uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main())
