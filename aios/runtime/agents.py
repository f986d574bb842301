"""The part of the runtime that delegates: `rt.spawn`, `rt.agent`, `rt.agents`."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from aios.agents import agent_class, scopes_of
from aios.errors import DeadlineExceeded, UsageError
from aios.packaging import code_of
from aios.presentation import Shown
from aios.records.agents import AGENT_ID, IDS_OF_AGENTS, Budget
from aios.runtime.objects import Live
from aios.runtime.tables import Look, Table
from aios.runtime.transport import Transport
from aios.store.canonical import plain

ONE_WAIT_S = 20.0
"""How long one exchange waits for a reply; longer waits are several."""
COLUMNS = ("ref", "status", "runs", "waiting", "handled", "problem", "parent")


class AgentStatus(Shown):
    """An agent at one moment.

    Attributes:
        status: `ready`, `exhausted` (its budget is spent), `failed` or `killed`.
        problem: why, where it is not ready.
        waiting, handled: messages in its mailbox, and those that are done.
        spent, budget: `usd`, `tokens`, `seconds`, `steps`.
        dead: the newest messages that were given up, with their `problem`.
        children: the agents below it.
        fields: all of it, as plain values.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.ref: str = fields["ref"]
        self.status: str = fields["status"]
        self.problem: str | None = fields["problem"]
        self.waiting: int = fields["waiting"]
        self.handled: int = fields["handled"]
        self.version: int = fields["runs"]
        self.spent: dict[str, float] = fields["spent"]
        self.budget: dict[str, float | None] = fields["budget"]
        self.dead: list[dict[str, Any]] = fields["dead"]
        self.children: list[str] = fields["children"]
        self.fields = fields

    def _shown(self) -> Look:
        title = f"agent {self.ref}, version {self.version}: {self.status}"
        if self.problem:
            title += f"\n! {self.problem}"
        rows: list[list[object]] = [
            ["waiting", self.waiting],
            ["handled", self.handled],
            ["scopes", ", ".join(self.fields["scopes"]) or "none"],
            ["children", ", ".join(self.children) or "none"],
        ]
        for name, limit in self.budget.items():
            rows.append([f"spent {name}", _of(self.spent[name], limit)])
        rows += [[f"dead {one['seq']}", one["problem"]["detail"]] for one in self.dead]
        return title, ["", ""], rows


class Agent(Live):
    """An agent. Holds only its name and id; every call asks the runtime."""

    def __init__(self, transport: Transport, name: str, id: str) -> None:
        self._transport = transport
        self.name = name
        self.id = id

    @property
    def ref(self) -> str:
        """`name/id`, as other agents write to it."""
        return f"{self.name}/{self.id}"

    @property
    def _path(self) -> str:
        return f"/api/v1/agents/{self.name}/{self.id}"

    def tell(self, message: Any) -> int:
        """Put a message into its mailbox; the message's number. It is on disk when this returns.

        Raises:
            IllegalTransition: the agent was killed, or has failed.
            BudgetExceeded: it has nothing left to spend.
            Overloaded: 100,000 messages wait for it.
        """
        body = {"message": _told(message, f"a message to {self.ref}")}
        found = self._transport.change("POST", f"{self._path}/messages", body)
        return int(found["messages"][0])

    def ask(self, message: Any, timeout_s: float = 60.0) -> Any:
        """Put a message into its mailbox and wait for the reply.

        Raises:
            DeadlineExceeded: there is none after `timeout_s`; the message stays.
            AiosError: what the agent failed of.
        """
        if not isinstance(timeout_s, int | float) or not timeout_s > 0:
            raise UsageError(f"timeout_s={timeout_s!r:.40}: give seconds, more than 0")
        body, operation_id = {"message": _told(message, f"a message to {self.ref}")}, uuid4().hex
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = until_s - time.monotonic()
            waits = {"timeout_s": max(0.001, min(left_s, ONE_WAIT_S))}
            try:
                path = f"{self._path}/ask"
                return self._transport.change(
                    "POST", path, {**body, **waits}, operation_id=operation_id
                )["reply"]
            except DeadlineExceeded:
                if time.monotonic() >= until_s:
                    raise DeadlineExceeded(
                        f"agent {self.ref} has not replied within {timeout_s:g} s; the message "
                        "stays in its mailbox"
                    ) from None

    def state(self, kind: type[BaseModel] | None = None) -> Any:
        """Its memory after the last message that is done: plain values, or a model of yours."""
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise UsageError(f"state(...) takes a pydantic model's class, not {kind!r:.60}")
        found = self._transport.get(self._path)["state"]
        if kind is None:
            return found
        try:
            return kind.model_validate(found or {})
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))
            raise UsageError(
                f"the state of agent {self.ref} is no {kind.__name__}: {where}: {fault['msg']}"
            ) from None

    def status(self) -> AgentStatus:
        """How it stands."""
        return AgentStatus(self._transport.get(self._path))

    def log(self, limit: int = 100) -> Table:
        """What it decided and called, newest first."""
        found = self._transport.get(f"{self._path}/log", limit=limit)
        columns = ["at_s", "message", "version", "kind", "choice", "reason"]
        return Table(f"log of {self.ref}", found, columns)

    def kill(self, reason: str = "") -> None:
        """End it for good, and all agents below it. What waits for them is given up.

        Raises:
            IllegalTransition: it was killed before.
        """
        self._transport.change("POST", f"{self._path}/kill", {"reason": reason})

    def revive(self, reason: str = "") -> None:
        """Let an agent that failed too often handle messages again.

        Raises:
            IllegalTransition: it has not failed.
        """
        self._transport.change("POST", f"{self._path}/revive", {"reason": reason})

    def grant(self, budget: Budget) -> None:
        """Let it spend so much more; one that was stopped for its budget goes on.

        Raises:
            UsageError: it has no bound on that.
            IllegalTransition: it was killed.
        """
        body = {"budget": _budget(budget)}
        self._transport.change("POST", f"{self._path}/grant", body)

    def _named(self) -> str:
        return f"agent {self.ref} at {self._transport.address}"

    def _now(self) -> Shown:
        return self.status()


class Delegated:
    """Agents: spawned, told, asked, killed."""

    _transport: Transport

    def spawn(
        self,
        agent: Any,
        *,
        id: str,
        scopes: str | Sequence[str] = (),
        state: BaseModel | Mapping[str, Any] | None = None,
        budget: Budget | None = None,
    ) -> Agent:
        """An agent with this id, from now on. One that is there already stays as it is.

        Args:
            agent: a class with `@aios.agent`, whose text is sent along, or the name of a known one.
            scopes: the rights that its tools may use; it can give no others to agents below it.
            state: what it knows at first.
            budget: instead of that of its class.

        Raises:
            UsageError: class, id or state cannot be taken.
            UnknownName: nobody sent an agent of this name.
            IllegalTransition: the id was killed, or has other scopes.
        """
        if state is not None and not isinstance(state, BaseModel | Mapping):
            raise UsageError(f"state={state!r:.60}: give a model, or names with values")
        body: dict[str, Any] = {"id": _id(id), "scopes": list(scopes_of(scopes))}
        name = agent
        if not isinstance(agent, str):
            made = agent_class(agent)
            known = None if state is None else _told(state, "the state")
            made.refuse_unknown(known)
            made.read_state(known)
            name = made.name
            body["source"] = code_of(agent, "agent").model_dump(mode="json")
            body["facts"] = made.facts.model_dump(mode="json")
        if state is not None:
            body["state"] = _told(state, "the state")
        if budget is not None:
            body["budget"] = _budget(budget)
        self._transport.change("POST", f"/api/v1/agents/{name}", body)
        return Agent(self._transport, name, id)

    def agent(self, name: str, id: str) -> Agent:
        """An agent that is there.

        Raises:
            UnknownName: it is not; says which are.
        """
        found = Agent(self._transport, name, id)
        self._transport.get(found._path)
        return found

    def agents(self, name: str | None = None) -> Table:
        """Agents of one name or of all, the last touched first; up to 1,000."""
        return Table("agents", self._transport.get("/api/v1/agents", name=name), COLUMNS)

    def agent_counts(self) -> Table:
        """By name and status: how many agents, messages that wait, messages that are done."""
        columns = ("name", "status", "agents", "waiting", "handled")
        return Table("agents", self._transport.get("/api/v1/agent-counts"), columns)

    def tell_agents(self, messages: Iterable[tuple[Agent | str, Any]]) -> list[int]:
        """Put many messages into mailboxes, up to 1,000 together or none of them.

        Args:
            messages: (agent or its `name/id`, message).
        """
        told = []
        for one in messages:
            if not isinstance(one, tuple | list) or len(one) != 2:
                raise UsageError(f"{one!r:.60}: give pairs, (agent or its name/id, message)")
            ref = one[0].ref if isinstance(one[0], Agent) else one[0]
            if not isinstance(ref, str):
                raise UsageError(f"{ref!r:.60} is no agent; give one, or its name/id")
            told.append({"to": ref, "message": _told(one[1], f"a message to {ref}")})
        found = self._transport.change("POST", "/api/v1/agent-messages", {"messages": told})
        return list(found["messages"])

    def agent_hosts(self) -> Table:
        """The processes that run agents, and what they have in memory."""
        columns = ("epoch", "pid", "awake", "in_flight")
        return Table("agent hosts", self._transport.get("/api/v1/agent-hosts"), columns)

    def dead_messages(self, agent: Agent | str | None = None) -> Table:
        """Messages that were given up, newest first, of one agent (or its `name/id`) or of all;
        `problem` says why."""
        ref = agent.ref if isinstance(agent, Agent) else agent
        found = self._transport.get("/api/v1/dead-messages", ref=ref)
        rows = [{**one, "why": (one["problem"] or {}).get("detail")} for one in found]
        return Table("dead messages", rows, ("seq", "agent", "sender", "attempts", "why"))

    def revive_message(self, message: int | Mapping[str, Any]) -> None:
        """Let a message that was given up be handled once more, in its old place.

        Args:
            message: a row of `dead_messages`, or its `seq`.

        Raises:
            IllegalTransition: it is done, or waits.
        """
        seq = message.get("seq") if isinstance(message, Mapping) else message
        if not isinstance(seq, int):
            raise UsageError(f"{message!r:.60} is no message; give a row of rt.dead_messages()")
        self._transport.change("POST", f"/api/v1/dead-messages/{seq}/revive")

    def roll_out_agent(
        self, agent: Any, *, share: float, version: int | None = None, shadow: bool = False
    ) -> int:
        """Let agents of a name run another version from their next message on; the version.

        A message that the version fails while only a share has it is handled again by the agent's
        own version; after three such messages the version is taken back, with an audit entry.

        Args:
            agent: the new class, whose text is sent along, or a name with `version`.
            share: of the ids, 0 to 1, by a hash: a growing share only adds agents. With 1 all run
                it; agents that are spawned later are among them.
            shadow: the version gets copies of messages instead; its tools answer dry, what it
                would have done is in the log, and nothing else happens.

        Raises:
            IllegalTransition: another version is rolled out to a share.
        """
        name = agent
        if not isinstance(agent, str):
            if version is not None:
                raise UsageError(
                    "a class is rolled out as the version that its text is; give version= with "
                    'the name of an agent, such as "triage"'
                )
            name, version = define_agent(self._transport, agent, anew=False)
        elif version is None:
            raise UsageError("a name needs the version that is to be rolled out")
        body = {"version": version, "share": share, "shadow": shadow}
        return int(self._transport.change("PUT", f"/api/v1/agent-plans/{name}", body)["version"])

    def roll_back_agent(self, name: str) -> None:
        """Let every agent of a name run the version that it was spawned with, at once.

        Raises:
            IllegalTransition: nothing is rolled out.
        """
        self._transport.change("DELETE", f"/api/v1/agent-plans/{name}")

    def agent_versions(self, name: str | None = None) -> Table:
        """Versions of agents that were sent, oldest first; `facts` has tools, scopes and budget."""
        found = self._transport.get("/api/v1/agent-versions", name=name)
        return Table("agent versions", found, ("name", "version", "created_by"))

    def agent_rollouts(self) -> Table:
        """Which versions are rolled out to which share of agents."""
        found = self._transport.get("/api/v1/agent-plans")
        return Table("agent rollouts", found, ("at_s", "name", "version", "share", "shadow", "by"))


def _id(given: Any) -> str:
    if not isinstance(given, str) or not re.fullmatch(AGENT_ID, given):
        raise UsageError(f"id={given!r:.80} is no id of an agent: {IDS_OF_AGENTS}")
    return given


def define_agent(transport: Transport, agent: Any, *, anew: bool = True) -> tuple[str, int]:
    """Send the text of an agent's class; its name and version.

    Args:
        anew: whether a text that was sent before the newest one becomes the newest version; else
            it is the version that it was.
    """
    made = agent_class(agent)
    body = {
        "anew": anew,
        "source": code_of(agent, "agent").model_dump(mode="json"),
        "facts": made.facts.model_dump(mode="json"),
    }
    found = transport.change("POST", f"/api/v1/agent-versions/{made.name}", body)
    return made.name, int(found["version"])


def _told(value: Any, what: str) -> Any:
    """A message or state as it travels: models as objects, everything else as it is.

    Raises:
        UsageError: it is not plain.
    """
    made = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    plain(made, what)
    return made


def _of(spent: float, limit: float | None) -> str:
    return f"{spent:.6g}" if limit is None else f"{spent:.6g} of {limit:.6g}"


def _budget(given: Any) -> dict[str, Any]:
    if not isinstance(given, Budget):
        raise UsageError(f"{given!r:.60} is no budget; one is aios.Budget(steps=50)")
    return given.model_dump(exclude_none=True)
