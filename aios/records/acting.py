"""What acts: the flows and agents that users wrote, and what waits for people's word."""

from typing import Any, Literal

from pydantic import Field

from aios.records.base import Name, Record
from aios.records.governed import CodeSource

DefinitionKind = Literal["flow", "agent"]


class Definition(Record):
    """One version of a flow or an agent: its text, and what was read off it when it was sent.

    Versions of a name count from 1. What was begun with one goes on with it, whatever came
    after: its text stays.
    """

    kind: DefinitionKind
    name: Name
    version: int = Field(ge=1)
    source: CodeSource
    facts: dict[str, Any] = {}
    created_s: float
    created_by: str

    @property
    def ref(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"


QuestionStatus = Literal["open", "answered", "expired", "withdrawn"]


class Question(Record):
    """What a flow asks a person, and what became of it.

    `form` is the JSON schema of an answer, None where any plain value will do. `to` is a role or
    the identity of a key. `unanswered` says in words what happens if nobody answers in time.
    `problem` is why the last answer did not do. `withdrawn`: the flow ended without it.
    """

    id: str
    flow: str
    text: str
    form: dict[str, Any] | None = None
    to: str
    unanswered: str = "it waits"
    asked_by: str
    asked_s: float
    until_s: float | None = None
    status: QuestionStatus = "open"
    answer: Any = None
    answered_by: str | None = None
    answered_s: float | None = None
    problem: str | None = None


class Waiting(Record):
    """What waits in the inbox for somebody's word: a question of a flow, or an agent's tool call
    that needs an approval.

    A question has its `flow`, a tool call its `agent`, `tool` and `arguments`. The rest is of both,
    as in `Question`; `asked_by` is who began the flow, or the agent.
    """

    kind: Literal["question", "tool_call"]
    id: str
    flow: str | None = None
    agent: str | None = None
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    text: str
    form: dict[str, Any] | None = None
    to: str
    unanswered: str = "it waits"
    asked_by: str
    asked_s: float
    until_s: float | None = None
    problem: str | None = None
