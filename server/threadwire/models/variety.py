"""What makes a simulated provider as uneven as a real one: late first tokens, bursts, failures, silences, tool calls.

Pure: chance is a ``random.Random`` of its own, the clock is an argument. A message that directs its answer by itself
(``script.py``) gets what it asks for; only its times vary.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from threadwire.models.script import Answer, Failure, Manner, Said, failure, is_directed, plan

#: What a failure by chance is: the two that providers have most.
_FAILURES = (500, 503)


@dataclass(frozen=True, slots=True)
class Saying:
    """A way to answer, in the words of ``script.py``, and how often it is taken beside others."""

    say: str
    weight: float = 1.0


class Variety:
    """How answers differ from each other.

    ``first_token_sigma`` is that of a log-normal distribution around the set time, which is its median: with 0.5, one
    in a hundred first tokens takes three times as long. ``burst`` is how many tokens come at once on average. The rates
    are shares of the answers. ``sayings`` answer what is not directed.
    """

    def __init__(
        self,
        *,
        first_token_sigma: float = 0.0,
        burst: int = 1,
        error_rate: float = 0.0,
        stall_rate: float = 0.0,
        sayings: Sequence[Saying] = (),
        seed: int = 1,
    ) -> None:
        self._sigma = first_token_sigma
        self._burst = burst
        self._error_rate = error_rate
        self._stall_rate = stall_rate
        self._sayings = tuple(sayings)
        self._chance = random.Random(seed)  # noqa: S311 -- the same again with the same seed

    def direct(self, messages: Sequence[Said], tools: Sequence[str]) -> Sequence[Said]:
        """The conversation, with a saying under what the user said last; after its tools have run, the same one."""
        last = max((i for i, said in enumerate(messages) if said.role == "user"), default=-1)
        if last < 0 or not self._sayings or is_directed(messages[last].text):
            return messages
        answered = {said.tool_call_id for said in messages[last + 1 :] if said.role == "tool"}
        if answered:
            for saying in self._sayings:
                asked = [*messages[:last], _with(messages[last], saying)]
                if any(call.id in answered for call in plan(asked, tools, Manner()).calls):
                    return [*asked, *messages[last + 1 :]]
            return messages
        weights = [saying.weight for saying in self._sayings]
        [saying] = self._chance.choices(self._sayings, weights)
        return [*messages[:last], _with(messages[last], saying), *messages[last + 1 :]]

    def vary(self, answer: Answer) -> Answer:
        """The answer as it comes this time."""
        late = math.exp(self._sigma * self._chance.gauss(0, 1)) if self._sigma else 1.0
        burst = self._chance.randint(1, 2 * self._burst - 1) if self._burst > 1 else 1
        answer = replace(answer, first_token_ms=answer.first_token_ms * late, burst=burst)
        if answer.failure is not None or answer.ending != "whole":
            return answer
        if self._error_rate and self._chance.random() < self._error_rate:
            return replace(answer, failure=failure(self._chance.choice(_FAILURES)))
        if self._stall_rate and self._chance.random() < self._stall_rate:
            said = answer.deltas[: self._chance.randint(0, len(answer.deltas))]
            return replace(answer, deltas=said, ending="silent")
        return answer


class RequestLimit:
    """A provider's rate limit: so many requests in any minute; refused ones do not count."""

    SECONDS = 60.0

    def __init__(self, per_minute: int) -> None:
        self._times: deque[float] = deque()
        self._per_minute = per_minute

    def refusal(self, now: float) -> Failure | None:
        """A 429 that says when to come again, if there were too many before ``now``; else it counts one more."""
        if not self._per_minute:
            return None
        while self._times and now - self._times[0] >= self.SECONDS:
            self._times.popleft()
        if len(self._times) < self._per_minute:
            self._times.append(now)
            return None
        return failure(429, retry_after_seconds=math.ceil(self._times[0] + self.SECONDS - now))


def _with(said: Said, saying: Saying) -> Said:
    return replace(said, text=f"{said.text}\n{saying.say}")
