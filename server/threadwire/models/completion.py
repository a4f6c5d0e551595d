"""OpenAI's chat completions as they are on the wire: a request read for the script, an answer written.

Pure: bytes and dicts; ``simulate.py`` is the server. The shapes are those of
https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from threadwire.models.script import Answer, CallPiece, Delta, Failure, Manner, Reasoning, Said, plan
from threadwire.models.variety import Variety


def read_request(body: dict[str, Any], manner: Manner, variety: Variety) -> Answer:
    """What to answer a request's body.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the body is not as OpenAI's.
    """
    if not isinstance(body["model"], str):
        raise TypeError("model: not a string")
    messages = [
        Said(message["role"], _text(message.get("content")), message.get("tool_call_id", ""))
        for message in body["messages"]
    ]
    tools = [tool["function"]["name"] for tool in body.get("tools") or []]
    max_tokens = body.get("max_completion_tokens", body.get("max_tokens"))
    told = replace(manner, max_tokens=max_tokens)
    return variety.vary(plan(variety.direct(messages, tools), tools, told))


def completion(head: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """A whole answer; ``head`` is its ``id``, ``created`` and ``model``."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return head | {"object": "chat.completion", "choices": [choice], "usage": _usage(answer)}


def refusal(failure: Failure) -> dict[str, Any]:
    """The body of an error."""
    error = {"message": failure.message, "type": failure.type, "param": None, "code": failure.code}
    return {"error": error}


class Chunks:
    """An answer as server-sent events; what its chunks have in common is encoded once."""

    def __init__(self, head: dict[str, Any], answer: Answer, *, include_usage: bool) -> None:
        common = b"data: " + orjson.dumps(head | {"object": "chat.completion.chunk"})[:-1]
        self._open = common + b',"choices":[{"index":0,"delta":'
        self._open_text = self._open + b'{"content":'
        self.first = self._open + b'{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
        reason = answer.finish_reason.encode()
        self.last = self._open + b'{},"finish_reason":"' + reason + b'"}]}\n\n'
        if include_usage:
            self.last += common + b',"choices":[],"usage":' + orjson.dumps(_usage(answer)) + b"}\n\n"
        self.last += b"data: [DONE]\n\n"

    def encode(self, delta: Delta) -> bytes:
        """One delta as one event."""
        if isinstance(delta, str):
            return self._open_text + orjson.dumps(delta) + b'},"finish_reason":null}]}\n\n'
        return self._open + orjson.dumps(_delta(delta)) + b',"finish_reason":null}]}\n\n'


def _delta(delta: Reasoning | CallPiece) -> dict[str, Any]:
    if isinstance(delta, Reasoning):
        return {"reasoning_content": delta.text}  # as DeepSeek and vLLM have it; OpenAI shows none
    function = {"arguments": delta.arguments}
    if delta.id is None:
        return {"tool_calls": [{"index": delta.index, "function": function}]}
    function |= {"name": delta.name or ""}
    return {"tool_calls": [{"index": delta.index, "id": delta.id, "type": "function", "function": function}]}


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or [] if part["type"] == "text")


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
