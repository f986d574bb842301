"""The inbox: whatever waits for a person's word, of flows and of agents, and the word itself."""

from typing import Any

from aios.errors import UnknownName
from aios.kernel.agent_calls import AgentCalls
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.flow_commands import FlowCommands
from aios.kernel.requests import Nothing
from aios.records import Record
from aios.records.acting import Waiting
from aios.registry import Registry
from aios.registry.base import listed, shown


class GiveAnswer(Record):
    """A person's answer to what waits under an id."""

    id: str
    answer: Any


class Inbox:
    """Questions of flows and tool calls of agents in one list. Ids of both have a slash, and no
    call of an agent has the id of a question: `clerk/c-1#7#1#abc`, `order-42/3`."""

    def __init__(self, registry: Registry, flows: FlowCommands, calls: AgentCalls) -> None:
        self._registry = registry
        self._flows = flows
        self._calls = calls
        self.commands: Commands = {"answer": (GiveAnswer, self._answer)}
        self.queries: Queries = {"inbox": (Nothing, self._list)}

    def _answer(self, request: GiveAnswer, asked: Asked) -> dict[str, Any]:
        questions = self._registry.questions_of([request.id])
        if questions:
            return self._flows.answer(questions[0], request.answer, asked)
        call = self._registry.tool_call(request.id)
        if call is None:
            known = listed(one.id for one in self._waiting())
            raise UnknownName(f"nothing waits under {shown(request.id)}; in the inbox: {known}")
        return self._calls.answer(call, request.answer, asked)

    def _list(self) -> list[dict[str, Any]]:
        waiting = self._waiting()
        if not waiting:
            return []
        answering = self._flows.answering()
        found = [one if one.to in answering else _for_nobody(one) for one in waiting]
        return [one.model_dump(mode="json") for one in found]

    def _waiting(self) -> list[Waiting]:
        """Oldest first."""
        found = [*self._flows.waiting(), *self._calls.waiting()]
        return sorted(found, key=lambda one: (one.asked_s, one.id))


def _for_nobody(waiting: Waiting) -> Waiting:
    unknown = (
        f"no key that may answer is of {waiting.to!r}: an administrator answers, or adds one with "
        f"rt.keys.add({waiting.to!r}, role=...)"
    )
    told = "; ".join(one for one in (waiting.problem, unknown) if one)
    return waiting.model_copy(update={"problem": told})
