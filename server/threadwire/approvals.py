"""LangChain's approval requests: what ``HumanInTheLoopMiddleware`` asks, and whether an answer fits.

The middleware looks at an answer only when the graph goes on with it, and raises: the run fails and the question is
gone. Looked at before, a wrong answer costs nothing and the question stays. Its shapes are LangChain's ``HITLRequest``
and ``HITLResponse`` (langchain 1.4); any other question takes any answer. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from threadwire.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Action:
    """A call that waits for a decision."""

    name: str
    args: dict[str, Any]
    #: Which decisions it takes: ``approve``, ``edit``, ``reject``, ``respond``.
    allowed: tuple[str, ...]


def actions_of(question: Any) -> list[Action] | None:
    """The calls that an interrupt's value asks about, in the order of their decisions; None where it asks else."""
    if not isinstance(question, Mapping):
        return None
    requests, configs = question.get("action_requests"), question.get("review_configs")
    if not isinstance(requests, list) or not isinstance(configs, list) or not requests:
        return None
    allowed = {
        config["action_name"]: tuple(config["allowed_decisions"])
        for config in configs
        if isinstance(config, Mapping) and isinstance(config.get("allowed_decisions"), list) and "action_name" in config
    }
    actions = []
    for request in requests:
        if not isinstance(request, Mapping) or not isinstance(request.get("args"), dict):
            return None
        name = request.get("name")
        if not isinstance(name, str) or name not in allowed:
            return None
        actions.append(Action(name, request["args"], allowed[name]))
    return actions


def check_answer(field: str, question: Any, answer: Any, asks_before: Container[str] | None = None) -> None:
    """Look at the answer to an interrupt; ``field`` is its path.

    ``asks_before``: the tools that the built-in agent asks about now. The question may have come under another
    configuration, with which its decisions would be taken for other calls', or for none: a rejected call would run. And
    an edit may not name another tool: LangChain cannot turn a call over to an MCP server's. None: a graph of a user's.

    Raises:
        InvalidArgument: it asks for decisions, and these are none; says which field and what was expected.
    """
    actions = actions_of(question)
    if actions is None:
        return
    if asks_before is not None and (stale := [action.name for action in actions if action.name not in asks_before]):
        raise InvalidArgument(field, f"the agent no longer asks before it calls {stale[0]}; cancel drops the question")
    decisions = answer.get("decisions") if isinstance(answer, dict) else None
    if not isinstance(decisions, list):
        raise InvalidArgument(field, f'expected {{"decisions": […]}}, {_each(actions)}')
    if len(decisions) != len(actions):
        raise InvalidArgument(f"{field}.decisions", f"expected {_each(actions)}; got {len(decisions)}")
    for index, (action, decision) in enumerate(zip(actions, decisions, strict=True)):
        _check_decision(f"{field}.decisions.{index}", action, decision, keeps_tool=asks_before is not None)


def _each(actions: Sequence[Action]) -> str:
    names = ", ".join(action.name for action in actions[:10]) + (", …" if len(actions) > 10 else "")
    return f"one for each of {len(actions)} calls in their order ({names})" if len(actions) > 1 else f"one, for {names}"


def _check_decision(field: str, action: Action, decision: Any, *, keeps_tool: bool) -> None:
    kind = decision.get("type") if isinstance(decision, dict) else None
    if not isinstance(kind, str) or kind not in action.allowed:
        raise InvalidArgument(f"{field}.type", f"expected one of {', '.join(action.allowed)}, for {action.name}")
    message = decision.get("message")
    if kind == "edit":
        _check_edit(f"{field}.edited_action", action, decision.get("edited_action"), keeps_tool=keeps_tool)
    elif kind == "respond" and not isinstance(message, str):
        raise InvalidArgument(f"{field}.message", "expected text, which the model gets as the tool's result")
    elif kind == "reject" and message is not None and not isinstance(message, str):
        raise InvalidArgument(f"{field}.message", "expected text, or nothing")


def _check_edit(field: str, action: Action, edited: Any, *, keeps_tool: bool) -> None:
    if not isinstance(edited, dict) or not isinstance(edited.get("args"), dict):
        raise InvalidArgument(field, f'expected {{"name": "{action.name}", "args": {{…}}}}')
    name = edited.get("name")
    if not isinstance(name, str) or (keeps_tool and name != action.name):
        raise InvalidArgument(f"{field}.name", f"expected {action.name!r}: an edit changes the arguments of a call")
