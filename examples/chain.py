"""A chain that is no chat: one text in, one text out, by prompt, plain LLM and parser.

    threadwire serve examples/chain.py:graph
    threadwire batch titles.jsonl --out done.jsonl --graph examples/chain.py:graph

Any runnable becomes a graph of one node that takes the last message and adds one. Its LLM's tokens stream although it
is no chat model; what its parser makes of them is the answer. Without need of a conversation it is a case for ``batch``
and ``POST /runs/batch``: each line of a file (``{"content": "..."}``) is a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LLM
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import CommaSeparatedListOutputParser
from langchain_core.outputs import GenerationChunk
from langchain_core.prompts import PromptTemplate
from langgraph.graph import START, MessagesState, StateGraph


class KeywordLLM(LLM):
    """A completion model that needs no key: it completes a text with its longest words. Put your own in its place."""

    @property
    def _llm_type(self) -> str:
        return "keywords"

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> str:
        text = prompt.partition("Text:")[2].removesuffix("Keywords:")
        words = {word.strip(".,:;!?").lower() for word in text.split()}
        return ", ".join(sorted(words, key=lambda word: (-len(word), word))[:3])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for piece in self._call(prompt, stop, run_manager, **kwargs).split(" "):
            chunk = GenerationChunk(text=f"{piece} ")
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


prompt = PromptTemplate.from_template("Give three keywords, separated by commas.\nText: {text}\nKeywords:")
chain = prompt | KeywordLLM() | CommaSeparatedListOutputParser()


async def run_chain(state: MessagesState) -> dict[str, Any]:
    """The chain on what was said last; ``astream`` lets an LLM stream, which ``ainvoke`` of a plain one does not."""
    keywords = [word async for words in chain.astream({"text": state["messages"][-1].text}) for word in words]
    return {"messages": [AIMessage(" · ".join(word.strip() for word in keywords))]}


graph = StateGraph(MessagesState)
graph.add_node("chain", run_chain)
graph.add_edge(START, "chain")
