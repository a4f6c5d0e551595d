"""What a simulated model answers: a pure function of the conversation, the tools on offer and the settings.

Both faces of it stand on this: ``models/simulated.py`` (a LangChain chat model) and ``simulate.py`` (an
OpenAI-compatible HTTP server). Knows no LangChain, no HTTP, no asyncio; the clock is an argument.

Left alone, it says that it is simulated and repeats what it was told. A line of the last user message that
begins with a slash directs the answer; a line that is not exactly one of these is plain text:

======================== =====================================================================================
``/tool NAME {"a": 1}``  call that tool, with these arguments as they stand (``{}`` if there are none, passed
                         on also if they are no JSON); several lines are parallel calls. How an answer ends
                         and ``/tokens`` go for the one that follows the results; else it quotes them
``/tokens N``            answer with exactly N tokens, see ``words()``
``/reasoning TEXT``      think that first
``/tokens-per-second R`` this fast, 0 is as fast as possible
``/first-token-ms F``    and that late
``/error``               fail as a provider that is broken: ``/status 500``
``/status CODE [NAME]``  fail with this HTTP status (400 to 599) and OpenAI's error code of that name
``/cut N``               break the connection after N tokens
``/silent [N]``          say nothing more after N tokens (default 0: not even that it has begun), never end
======================== =====================================================================================
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

#: More tokens than this are not said at once, whoever asks: an answer is held in memory.
MAX_TOKENS = 1_000_000
#: Characters of the user's message that a plain answer repeats.
MAX_QUOTE = 400
#: Characters of a tool call's arguments in one delta.
ARGUMENT_PIECE = 8

_DIRECTIVE = re.compile(
    r"^/(tool|tokens|reasoning|tokens-per-second|first-token-ms|error|status|cut|silent)(?=\s|\Z)(.*)",
    re.MULTILINE,
)
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?\Z")
_COUNT = re.compile(r"\d{1,9}\Z")
_TOKEN = re.compile(r"\s*\S+\s*|\s+")
_VOCABULARY = tuple(
    re.findall(
        r"\S+ ",
        "a tide goes out and the river keeps its slow way past grey stone where children once built small "
        "bright boats from paper each carrying one light into evening while old bells rang over quiet fields "
        "of barley until morning came again with wind rain sun salt leaves dust honey smoke glass ",
    )
)


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the conversation, in OpenAI's roles (``user``, ``assistant``, ``tool``, ``system``)."""

    role: str
    text: str
    #: Which call a ``tool`` message answers.
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Manner:
    """How answers come where the conversation does not say it."""

    tokens_per_second: float = 50.0
    first_token_ms: float = 200
    #: Exactly that many tokens instead of a plain answer.
    tokens: int | None = None
    #: As a provider's ``max_tokens``: what is longer is cut there, with finish reason ``length``.
    max_tokens: int | None = None


class Reasoning(NamedTuple):
    """A delta of reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A delta of a tool call: the first of a call has its id and name, the others pieces of its arguments."""

    index: int
    id: str | None
    name: str | None
    arguments: str


Delta: TypeAlias = str | Reasoning | CallPiece


class Call(NamedTuple):
    """A tool call; ``arguments`` is JSON text, if it was asked for with JSON."""

    id: str
    name: str
    arguments: str


class Failure(NamedTuple):
    """An error in the place of an answer: HTTP status, OpenAI's ``type`` and ``code``, a sentence."""

    status: int
    type: str
    code: str | None
    message: str
    retry_after_seconds: int | None


class Usage(NamedTuple):
    """Tokens: in (by the rule of thumb of four characters each) and out (the deltas)."""

    input_tokens: int
    output_tokens: int
    #: How many of the output tokens are reasoning.
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say, how fast, and how it ends. A delta counts as a token."""

    deltas: tuple[Delta, ...]
    usage: Usage
    tokens_per_second: float
    first_token_ms: float
    #: So many deltas come at once, and the next ones later: the rate stays.
    burst: int = 1
    calls: tuple[Call, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"
    #: ``cut`` and ``silent`` come after the last delta, in the place of a finish reason.
    ending: Literal["whole", "cut", "silent"] = "whole"
    failure: Failure | None = None

    @property
    def text(self) -> str:
        """All text of it, joined."""
        return "".join(delta for delta in self.deltas if isinstance(delta, str))

    @property
    def reasoning(self) -> str:
        """All reasoning of it, joined."""
        return "".join(delta.text for delta in self.deltas if isinstance(delta, Reasoning))


def words(count: int, seed: str) -> tuple[str, ...]:
    """That many words, each with a space behind it; always the same for the same seed.

    What ``/tokens N`` is answered with, where the seed is the text of the last user message.
    """
    at = zlib.crc32(_bytes(seed)) % len(_VOCABULARY)
    cycle = _VOCABULARY[at:] + _VOCABULARY[:at]
    return (cycle * (count // len(cycle) + 1))[:count]


def plan(messages: Sequence[Said], tools: Iterable[str], manner: Manner) -> Answer:
    """The answer to a conversation, by the rules at the top; ``tools`` are the names on offer."""
    last = max((i for i, said in enumerate(messages) if said.role == "user"), default=-1)
    asked = messages[last].text if last >= 0 else ""
    results = [said.text for said in messages[last + 1 :] if said.role == "tool"]
    directed = _read(asked)
    offered = list(tools)
    thought = tuple(Reasoning(token) for token in _TOKEN.findall(directed.reasoning))
    calls: tuple[Call, ...] = ()
    said: tuple[Delta, ...]
    if directed.calls and not results and all(name in offered for name, _ in directed.calls):
        calls, directed = _calls(messages, directed), _Directed(manner=directed.manner)
        said = tuple(piece for index, call in enumerate(calls) for piece in _pieces(index, call))
    else:
        said = _text(asked, results, directed, offered, manner)
    deltas: tuple[Delta, ...] = (*thought, *said)
    limit = len(deltas) if manner.max_tokens is None or calls else manner.max_tokens
    whole = deltas[:limit]
    return Answer(
        deltas=whole if directed.ending == "whole" else whole[: directed.after],
        usage=Usage(sum(len(said.text) // 4 + 4 for said in messages), len(whole), min(len(thought), limit)),
        tokens_per_second=directed.manner.get("tokens-per-second", manner.tokens_per_second),
        first_token_ms=directed.manner.get("first-token-ms", manner.first_token_ms),
        calls=calls,
        finish_reason="tool_calls" if calls else "length" if limit < len(deltas) else "stop",
        ending=directed.ending,
        failure=directed.failure,
    )


@dataclass(slots=True)
class _Directed:
    """The directives of a message."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    tokens: int | None = None
    reasoning: str = ""
    manner: dict[str, float] = field(default_factory=dict)
    ending: Literal["whole", "cut", "silent"] = "whole"
    after: int = 0
    failure: Failure | None = None


def _read(text: str) -> _Directed:
    directed = _Directed()
    for found in _DIRECTIVE.finditer(text) if "/" in text else ():
        _apply(directed, found[1], found[2].strip())
    return directed


def _apply(directed: _Directed, name: str, argument: str) -> None:
    match name:
        case "tool" if argument:
            tool, *arguments = argument.split(None, 1)
            directed.calls.append((tool, arguments[0] if arguments else "{}"))
        case "tokens" if _COUNT.match(argument):
            directed.tokens = min(int(argument), MAX_TOKENS)
        case "reasoning":
            directed.reasoning = argument
        case "tokens-per-second" | "first-token-ms" if _NUMBER.match(argument):
            directed.manner[name] = float(argument)
        case "error" if not argument:
            directed.failure = failure(500)
        case "status" if found := re.match(r"([45]\d\d)(?: +(\w+))?\Z", argument):
            directed.failure = failure(int(found[1]), found[2])
        case "cut" if _COUNT.match(argument):
            directed.ending, directed.after = "cut", int(argument)
        case "silent" if not argument or _COUNT.match(argument):
            directed.ending, directed.after = "silent", int(argument or 0)


def is_directed(text: str) -> bool:
    """Whether a message says by itself how it is to be answered."""
    return "/" in text and _DIRECTIVE.search(text) is not None


def failure(status: int, code: str | None = None, retry_after_seconds: int = 1) -> Failure:
    """A failure as a provider tells it; ``retry_after_seconds`` goes with 429."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if status == 429 else kind
    usual = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
    retry_after = retry_after_seconds if status == 429 else None
    return Failure(status, kind, code or usual.get(status), f"simulated failure {status}", retry_after)


def _text(asked: str, results: list[str], directed: _Directed, offered: list[str], manner: Manner) -> tuple[str, ...]:
    if directed.tokens is not None:
        return words(directed.tokens, asked)
    if results:
        return tuple(_TOKEN.findall("The tool said: " + "\n".join(results)))
    if missing := [name for name, _ in directed.calls if name not in offered]:
        have = ", ".join(offered) or "none"
        return tuple(_TOKEN.findall(f"I have no tool called {missing[0]}. Tools that I have: {have}."))
    if manner.tokens is not None:
        return words(min(manner.tokens, MAX_TOKENS), asked)
    quote = asked if len(asked) <= MAX_QUOTE else asked[:MAX_QUOTE] + "…"
    about = "I am a simulated model: what I say is scripted. Set OPENAI_API_KEY or model.name for a real one."
    return tuple(_TOKEN.findall(f"{about} You said: {quote}"))


def _calls(messages: Sequence[Said], directed: _Directed) -> tuple[Call, ...]:
    # The ids of earlier calls go into the new ones, so that the same words in a later turn give other ids.
    seed = 0
    for said in messages:
        seed = zlib.crc32(_bytes(f"{said.role}\0{said.text}\0{said.tool_call_id}\0"), seed)
    return tuple(
        Call(f"call_{seed:08x}_{index}", name, arguments) for index, (name, arguments) in enumerate(directed.calls)
    )


def _pieces(index: int, call: Call) -> Iterable[CallPiece]:
    yield CallPiece(index, call.id, call.name, "")
    for at in range(0, len(call.arguments), ARGUMENT_PIECE):
        yield CallPiece(index, None, None, call.arguments[at : at + ARGUMENT_PIECE])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
