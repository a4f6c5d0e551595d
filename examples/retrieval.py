"""Retrieval: questions about threadwire, answered from its own documentation on this machine.

    threadwire serve examples/retrieval.py:graph

The retriever is BM25 over the sections of ``docs/*.md``, without a service, an index or a key; any LangChain retriever
takes its place. Because it is run as a retriever, readers get a ``retrieval`` frame with what it found. The answer is
the best sections themselves; to have a model word it, give them to one in ``answer``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph

DOCS = Path(__file__).resolve().parent.parent / "docs"


class Bm25(BaseRetriever):
    """Okapi BM25 with the usual k1 = 1.5 and b = 0.75 over documents held in memory."""

    documents: list[Document]
    k: int = 3

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:  # noqa: ARG002
        counts = [Counter(words(document.page_content)) for document in self.documents]
        lengths = [count.total() for count in counts]
        mean = sum(lengths) / len(lengths) if lengths else 1.0
        scores = [0.0] * len(counts)
        for word in set(words(query)):
            having = sum(word in count for count in counts)
            rarity = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
            for at, count in enumerate(counts):
                length = 1.5 * (0.25 + 0.75 * lengths[at] / mean)
                scores[at] += rarity * count[word] * 2.5 / (count[word] + length)
        best = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[: self.k]
        return [self.documents[at] for at in best if scores[at] > 0]


def words(text: str) -> list[str]:
    """Its words in lower case, plurals as singulars, without those that say nothing."""
    found = re.findall(r"[a-z][a-z0-9_]+", text.lower())
    return [word.removesuffix("s") for word in found if word not in STOP_WORDS]


STOP_WORDS = frozenset(
    re.findall(r"\w+", "an and are as at be by can do does for from how if in is it of on or that the to")
)


def sections(folder: Path) -> list[Document]:
    """Each section of each Markdown file there, with its heading and file."""
    return [
        Document(text, metadata={"source": path.name, "heading": text.partition("\n")[0].strip("# ")})
        for path in sorted(folder.glob("*.md"))
        for part in re.split(r"(?m)^(?=#{1,3} )", path.read_text("utf-8"))
        if (text := part.strip())
    ]


retriever = Bm25(documents=sections(DOCS))


async def answer(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    """The sections that have to do with the question, the best first."""
    found = await retriever.ainvoke(state["messages"][-1].text, config)
    if not found:
        return {"messages": [AIMessage("The documentation says nothing about that.")]}
    parts = [f"From {document.metadata['source']}:\n\n{document.page_content[:1500]}" for document in found]
    return {"messages": [AIMessage("\n\n---\n\n".join(parts))]}


graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
