"""Agents: what one may spend and how often it may fail, and what hosts and the kernel tell each
other."""

from typing import Annotated, Any, Literal

from pydantic import Field

from aios.records.base import Given, Name, Record

AGENT_ID = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"
IDS_OF_AGENTS = "letters, digits and . _ : @ -, beginning with a letter or digit, at most 128"
AgentId = Annotated[str, Field(pattern=AGENT_ID)]
"""Ids of agents are parts of URLs and of names; one is unique below the agent's name."""
AgentStatus = Literal["ready", "exhausted", "failed", "killed"]
MailKind = Literal["message", "child_failed"]
MailState = Literal["waiting", "done", "dead"]
CallState = Literal["waiting", "rejected", "started", "done", "failed"]

Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Budget(Given):
    """What an agent may spend in its life; what is not named is not bounded.

    Args:
        usd, tokens: as the agent and its tools tell with `ctx.spend`.
        seconds: wall time inside `on_message`, without waiting for people.
        steps: predictions, tool calls, questions and messages to others.
    """

    usd: Amount | None = None
    tokens: Annotated[int, Field(gt=0)] | None = None
    seconds: Amount | None = None
    steps: Annotated[int, Field(gt=0)] | None = None


class Spent(Record):
    """What was spent of a budget."""

    usd: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(
            usd=self.usd + other.usd,
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
            steps=self.steps + other.steps,
        )


class Restarts(Given):
    """How often an agent may fail.

    Args:
        retries: how often a message that fails is tried again before it is dead. One under which
            its process ends (`os._exit`, no memory) is tried up to 10 times: others that were there
            have done nothing wrong, and nobody knows which one it was.
        backoff_s: the pause before the first of them; it doubles each time, up to a minute.
        limit: the agent itself is stopped, and its parent told, when more than so many of its
            messages die...
        within_s: ...in so many seconds.
    """

    retries: Annotated[int, Field(ge=0, le=100)] = 3
    backoff_s: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 0.5
    limit: Annotated[int, Field(ge=0, le=1_000)] = 3
    within_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0


class ToolFacts(Record):
    """What policy needs to know of a tool. `approval` says who must agree to each call."""

    name: str
    scopes: tuple[str, ...] = ()
    approval: str | None = None
    description: str = ""
    arguments: dict[str, Any] = {}

    @property
    def guarded(self) -> bool:
        """Whether the kernel is asked before each call."""
        return bool(self.scopes) or self.approval is not None


class AgentFacts(Record):
    """What was read off an agent's class when it was sent."""

    tools: tuple[ToolFacts, ...] = ()
    budget: Budget = Budget()
    restarts: Restarts = Restarts()
    supervises: bool = False
    description: str = ""
    message_schema: dict[str, Any] = {}

    def tool(self, name: str) -> ToolFacts | None:
        """The tool of this name, if it has one."""
        return next((one for one in self.tools if one.name == name), None)


class AgentRow(Record):
    """An agent as it is kept. `ref` is `name/id`; `epoch` that of the host which has it."""

    ref: str
    name: Name
    id: AgentId
    version: int
    state: dict[str, Any] | None = None
    budget: Budget = Budget()
    spent: Spent = Spent()
    scopes: tuple[str, ...] = ()
    parent: str | None = None
    depth: int = 0
    status: AgentStatus = "ready"
    restarts: tuple[float, ...] = ()
    epoch: int | None = None
    waiting: int = 0
    handled: int = 0
    problem: str | None = None
    created_s: float
    created_by: str
    updated_s: float


class Mail(Record):
    """A message as it is kept. `path` are the agents that wait for its reply, `hops` how many
    messages led to it, `attempts` how many failed, `deaths` how many died with their host."""

    seq: int
    agent: str
    kind: MailKind
    message: Any
    sender: str
    path: tuple[str, ...] = ()
    hops: int = 0
    state: MailState
    attempts: int = 0
    deaths: int = 0
    due_s: float = 0.0
    reply: Any = None
    problem: dict[str, Any] | None = None
    version: int | None = None
    at_s: float
    ended_s: float | None = None


class Letter(Record):
    """A message on its way to an agent. The same `operation` puts it there once."""

    to: str
    message: Any
    sender: str
    kind: MailKind = "message"
    path: tuple[str, ...] = ()
    hops: int = 0
    operation: str | None = None


class Delivery(Record):
    """A message with all that a host needs to handle it. `dry`: for a shadow, without effects."""

    ref: str
    name: str
    id: str
    version: int
    seq: int
    attempt: int
    kind: MailKind
    message: Any
    sender: str
    path: tuple[str, ...]
    hops: int
    state: dict[str, Any] | None
    budget: Budget
    spent: Spent
    scopes: tuple[str, ...]
    parent: str | None
    dry: bool = False


class Entry(Record):
    """A line of an agent's log: a choice with its reason, a tool call, a prediction."""

    kind: str
    choice: str
    reason: str = ""
    details: dict[str, Any] = {}


class CallEnd(Record):
    """How a guarded tool call ended."""

    key: str
    result: Any = None
    problem: str | None = None


class Turn(Record):
    """What became of one delivery. With a `problem` nothing of it counts but what was spent and
    logged, and how guarded calls ended; `retry` says whether another attempt may help."""

    agent: str
    seq: int
    attempt: int
    version: int
    state: dict[str, Any] | None = None
    reply: Any = None
    spent: Spent = Spent()
    sent: tuple[Letter, ...] = ()
    entries: tuple[Entry, ...] = ()
    calls: tuple[CallEnd, ...] = ()
    problem: dict[str, Any] | None = None
    retry: bool = True
    exhausted: bool = False
    dry: bool = False


class ToolCall(Record):
    """A guarded tool call. `key` is its idempotency key, the same when a message is handled
    again."""

    key: str
    agent: str
    message: int
    tool: str
    arguments: dict[str, Any]
    approval: str | None = None
    state: CallState
    result: Any = None
    problem: str | None = None
    answered_by: str | None = None
    reason: str | None = None
    at_s: float
    ended_s: float | None = None


class AgentPlan(Record):
    """Which agents of a name run another version than their own: those whose id a share covers.
    As a `shadow` it handles copies and changes nothing."""

    name: Name
    version: int
    share: float = Field(ge=0, le=1)
    shadow: bool = False
    salt: str
    at_s: float
    by: str
