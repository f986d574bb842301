"""Commands and queries about agents, and what their hosts ask the kernel."""

from collections.abc import Callable
from typing import Any, Protocol

from pydantic import Field, ValidationError

from aios.agents.supervision import MOST_GENERATIONS, wider
from aios.clock import Clock
from aios.errors import Forbidden, IllegalTransition, StoreUnavailable, UnknownName, UsageError
from aios.kernel.agent_calls import AgentCalls
from aios.kernel.agent_metrics import AgentMetrics
from aios.kernel.agent_plans import AgentPlans
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.mailroom import FactsOf, Mailroom
from aios.kernel.post import Post
from aios.kernel.requests import MaybeName, Nothing, read
from aios.records import CodeSource, Record
from aios.records.agents import (
    IDS_OF_AGENTS,
    AgentFacts,
    AgentId,
    AgentRow,
    Budget,
    Letter,
    Turn,
)
from aios.records.base import Name
from aios.registry import Change, Registry
from aios.security import Caller
from aios.security.keys import key_id, new_key
from aios.store.canonical import canonical
from aios.store.database import Database

HOSTS = "agents"
"""The identity of the key with which hosts predict."""
MOST_MESSAGES = 1_000
"""In one call; more is sent in several."""
PUT_S = 30.0
"""How long a message may take to be on disk."""


class Flows(Protocol):
    """What begins flows for agents."""

    def begin_for(
        self,
        agent: str,
        told: dict[str, Any],
        source: CodeSource | None,
        facts: dict[str, Any],
        operation: str,
        /,
    ) -> str:
        """Begin a flow, once per id; its id.

        Args:
            told: as `flow_commands.StartFlow`.
            source, facts: the flow's text and what was read off it, kept where it is new.
        """


class Spawn(Record):
    """An agent as wanted. With `source` and `facts` its class is sent along."""

    name: Name
    id: AgentId
    source: CodeSource | None = None
    facts: AgentFacts | None = None
    version: int | None = None
    scopes: tuple[str, ...] = ()
    state: dict[str, Any] | None = None
    budget: Budget | None = None


class Message(Record):
    """A message for an agent (`name/id`)."""

    to: str
    message: Any


class Messages(Record):
    """Messages that are put into mailboxes together, or not at all."""

    messages: tuple[Message, ...] = Field(min_length=1, max_length=MOST_MESSAGES)


class OfAgent(Record):
    """An agent by `name/id`."""

    ref: str


class OfAgentWhy(OfAgent):
    """An agent, and why something is done to it."""

    reason: str = ""


class Grant(OfAgent):
    """More budget: what is named here is added."""

    budget: Budget


class OfMessage(Record):
    """A message by its number."""

    seq: int


class AgentLog(OfAgent):
    """The newest entries of an agent's log."""

    limit: int = Field(default=100, ge=1, le=10_000)


class DeadMail(Record):
    """The newest messages that were given up, of one agent or of all."""

    ref: str | None = None
    limit: int = Field(default=100, ge=1, le=10_000)


class AgentCommands:
    """What people and agents ask of agents. `host_asks` is the door for hosts.

    Args:
        changed: called after a change of keys, to tell all endpoints.
        flows: begins flows for agents.
    """

    def __init__(
        self,
        registry: Registry,
        database: Database,
        clock: Clock,
        changed: Callable[[], None],
        flows: Flows,
    ) -> None:
        self._registry = registry
        self._flows = flows
        self._changed = changed
        facts = FactsOf(lambda name, version: registry.definition("agent", name, version).facts)
        self._facts = facts
        self._plans = AgentPlans(registry)
        self.post = Post(database, clock, facts, self._plans.all, self._plans.worse, self._make_key)
        self.metrics = AgentMetrics(registry, self.post)
        self.calls = AgentCalls(registry, facts)
        self.start, self.close, self.use_hosts = (
            self.post.start,
            self.post.close,
            self.post.use_hosts,
        )
        self.commands: Commands = {
            "spawn_agent": (Spawn, self._spawn),
            "tell_agents": (Messages, self._tell),
            "ask_agent": (Message, self._ask),
            "kill_agent": (OfAgentWhy, self._kill),
            "revive_agent": (OfAgentWhy, self._revive),
            "grant_agent": (Grant, self._grant),
            "revive_mail": (OfMessage, self._revive_mail),
            **self._plans.commands,
        }
        self.queries: Queries = {
            "agents": (MaybeName, self._list),
            "agent": (OfAgent, self._view),
            "agent_counts": (Nothing, self._registry.agent_counts),
            "agent_log": (AgentLog, self._log),
            "agent_reply": (OfMessage, self.reply),
            "dead_mail": (DeadMail, self._dead),
            "agent_hosts": (Nothing, self.post.hosts),
            **self._plans.queries,
        }

    def host_asks(self, epoch: int, what: str, told: Any) -> Any:
        """What a host asks; it may give a future."""
        if what == "done":
            turns = [Turn.model_validate(one) for one in told]
            return self.post.order(lambda room: self._finished(room, epoch, turns))
        if what == "stuck":
            seq = str(told["task"]).rpartition("#")[2]
            culprit = int(seq) if seq.isdecimal() else None
            self.post.ended(epoch, "an agent held up all others in its process", culprit)
            return None
        if what == "ask":
            return self.post.order(self._asking(Letter.model_validate(told["letter"])))
        if what == "reply":
            return self.reply(told["seq"])
        if what == "definition":
            found = self._registry.definition("agent", told["name"], told["version"])
            return found.model_dump(mode="json")
        if what == "spawn":
            return self._spawn_below(told)
        if what == "start":
            source = told["source"]
            source = None if source is None else CodeSource.model_validate(source)
            more = (told["facts"], told["operation"])
            return self._flows.begin_for(told["agent"], told["flow"], source, *more)
        if what == "revive":
            return self._revive_below(told)
        return self.calls.host_asks(what, told)

    def _finished(self, room: Mailroom, epoch: int, turns: list[Turn]) -> list[bool]:
        counted = room.finish_all(epoch, turns)
        self.metrics.refused += counted.count(False)
        return counted

    def tell_event(self, name: str, agent_id: str, event: Any, operation: str, by: str) -> None:
        """Put an event into the mailbox of an agent, once for each operation; an agent that is not
        there is spawned, without scopes. On disk when this returns.

        Raises:
            UsageError: that is no agent's id, or the agent takes no messages.
            UnknownName: nobody sent an agent of this name.
            TemporaryError: it could not be stored, or not soon enough.
        """
        letter = Letter(to=f"{name}/{agent_id}", message=event, sender=by, operation=operation)
        try:
            self._put(letter)
        except UnknownName:
            try:
                request = Spawn(name=name, id=agent_id)
            except ValidationError:
                raise UsageError(
                    f"the event's key {agent_id!r:.80} is no id of an agent: {IDS_OF_AGENTS}"
                ) from None
            told = request.model_dump(mode="json")
            self._spawn(request, Asked.of(Caller(by, "deployer"), "spawn_agent", told, None))
            self._put(letter)

    def _put(self, letter: Letter) -> int:
        try:
            return int(self.post.order(lambda room: room.put(letter)).result(PUT_S))
        except TimeoutError:
            raise StoreUnavailable("a message for an agent was not on disk in time") from None

    def reply(self, seq: int) -> Any:
        """What became of a message: a future where that is to come."""
        future = self.post.replies.wait_for(seq)
        try:
            known = ended(self._registry.agent_mail(seq))
        except UnknownName:
            future.cancel()
            raise
        if known is not None:
            self.post.replies.tell({seq: known})
        return future

    # -- commands ---------------------------------------------------------------------

    def _spawn(self, request: Spawn, asked: Asked) -> dict[str, Any]:
        ref = f"{request.name}/{request.id}"
        told = {"scopes": list(request.scopes)}
        with asked.change(self._registry, "spawn", ref, **told) as change:
            if change.done is not None:
                return change.done
            if request.source is not None:
                facts = (request.facts or AgentFacts()).model_dump(mode="json")
                made = change.define("agent", request.name, request.source, facts, asked.actor)
            else:
                made = change.definition("agent", request.name, request.version)
            known = AgentFacts.model_validate(made.facts)
            row = AgentRow(
                ref=ref,
                name=request.name,
                id=request.id,
                version=made.version,
                state=request.state,
                budget=request.budget or known.budget,
                scopes=tuple(sorted(set(request.scopes))),
                created_s=change.at_s,
                created_by=asked.actor,
                updated_s=change.at_s,
            )
            row = change.spawn_agent(row)
            change.note(version=row.version)
            result = {"ref": ref, "version": row.version, "newest": made.version}
            change.remember(result)
        self.post.look_at([])
        return result

    def _tell(self, request: Messages, asked: Asked) -> Any:
        letters = [_letter(one, asked, number) for number, one in enumerate(request.messages)]
        return self.post.order(lambda room: {"messages": room.put_all(letters)})

    def _ask(self, request: Message, asked: Asked) -> Any:
        letter = _letter(request, asked, 0)
        return self.post.order(lambda room: {"message": room.put(letter)})

    def _asking(self, letter: Letter) -> Callable[[Mailroom], dict[str, Any]]:
        """Put a question; the number of the message, or what became of it before."""

        def put(room: Mailroom) -> dict[str, Any]:
            seq = room.put(letter)
            known = ended(room.box.mails([seq])[seq])
            return {"seq": seq, "known": known}

        return put

    def _kill(self, request: OfAgentWhy, asked: Asked) -> dict[str, Any]:
        why = request.reason or f"killed by {asked.actor}"
        told = {"reason": request.reason}
        with asked.change(self._registry, "kill", request.ref, **told) as change:
            if change.done is not None:
                return change.done
            agent = change.agent(request.ref)
            if agent.status == "killed":
                raise IllegalTransition(f"agent {agent.ref} was killed before: {agent.problem}")
            refs = [agent.ref, *(one.ref for one in change.agents_below(agent.ref))]
            problem = IllegalTransition(f"agent {agent.ref} was killed: {why}").to_problem()
            seqs = change.bury_mail(refs, problem)
            change.set_agents(refs, "killed", why)
            change.note(agents=len(refs), messages=len(seqs))
            result = {"refs": refs, "messages": len(seqs)}
            change.remember(result)
        self.post.recall(refs)
        self.post.replies.tell({seq: {"problem": problem} for seq in seqs})
        return result

    def _revive(self, request: OfAgentWhy, asked: Asked) -> dict[str, Any]:
        told = {"reason": request.reason}
        with asked.change(self._registry, "revive", request.ref, **told) as change:
            if change.done is not None:
                return change.done
            _revive(change, request.ref)
            change.remember({"ref": request.ref})
        self.post.look_at([request.ref])
        return {"ref": request.ref}

    def _grant(self, request: Grant, asked: Asked) -> dict[str, Any]:
        more = request.budget.model_dump(exclude_none=True)
        with asked.change(self._registry, "grant", request.ref, **more) as change:
            if change.done is not None:
                return change.done
            agent = change.agent(request.ref)
            if agent.status == "killed":
                raise IllegalTransition(f"agent {agent.ref} was killed: {agent.problem}")
            now = agent.budget.model_dump(exclude_none=True)
            unbounded = sorted(set(more) - set(now))
            if unbounded:
                raise UsageError(f"agent {agent.ref} has no bound on {', '.join(unbounded)}")
            budget = {name: now[name] + more.get(name, 0) for name in now}
            change.set_agent(agent.ref, budget=budget)
            if agent.status == "exhausted":
                change.set_agents([agent.ref], "ready", None)
            change.remember({"ref": agent.ref, "budget": budget})
        self.post.look_at([request.ref])
        return {"ref": request.ref, "budget": budget}

    def _revive_mail(self, request: OfMessage, asked: Asked) -> dict[str, Any]:
        mail = self._registry.agent_mail(request.seq)
        with asked.change(self._registry, "revive", mail.agent, message=mail.seq) as change:
            if change.done is not None:
                return change.done
            change.revive_mail(mail.seq)
            change.remember({"message": mail.seq})
        self.post.look_at([mail.agent])
        return {"message": mail.seq}

    # -- what agents ask ----------------------------------------------------------------

    def _spawn_below(self, told: dict[str, Any]) -> str:
        request = read(Spawn, {k: v for k, v in told.items() if k != "parent"}, "ctx.spawn")
        parent = self._registry.agent(told["parent"])
        more = wider(request.scopes, parent.scopes)
        if more:
            raise Forbidden(
                f"agent {parent.ref} may not give {', '.join(more)}, which it does not have"
            )
        if parent.depth + 1 > MOST_GENERATIONS:
            raise UsageError(f"agent {parent.ref} is the last of {MOST_GENERATIONS} generations")
        asked = Asked.of(Caller(f"agent {parent.ref}", "agent"), "spawn_agent", told, None)
        ref = str(self._spawn(request, asked)["ref"])
        with asked.change(self._registry, "adopt", ref, parent=parent.ref) as change:
            there = change.agent(ref)
            if there.parent is None and there.created_by == asked.actor:
                change.set_agent(ref, parent=parent.ref, depth=parent.depth + 1)
        return ref

    def _revive_below(self, told: dict[str, Any]) -> str:
        ref, parent = str(told["ref"]), str(told["parent"])
        if ref not in {one.ref for one in self._registry.agents_below(parent)}:
            raise Forbidden(f"agent {ref} is not below {parent}")
        asked = Asked.of(Caller(f"agent {parent}", "agent"), "revive_agent", told, None)
        self._revive(OfAgentWhy(ref=ref), asked)
        return ref

    def _make_key(self) -> str:
        """A key for hosts that predict; those of earlier kernels end."""
        plain, digest = new_key(HOSTS)
        with self._registry.change(actor="kernel", action="agent_key", subject=HOSTS) as change:
            for key in list(change.keys()):
                if key.identity == HOSTS:
                    change.revoke_key(key.id)
            change.add_key(key_id(plain), HOSTS, digest, "viewer")
        self._changed()
        return plain

    # -- queries ------------------------------------------------------------------------

    def _list(self, name: str | None = None) -> list[dict[str, Any]]:
        agents = self._registry.agents(name)
        if name is not None and not agents:
            self._registry.definition("agent", name)
        return [self._shown(one) for one in agents]

    def _view(self, ref: str) -> dict[str, Any]:
        agent = self._registry.agent(ref)
        return {
            **self._shown(agent),
            "state": agent.state,
            "children": [one.ref for one in self._registry.agents_below(ref)],
            "dead": [mail.model_dump(mode="json") for mail in self._registry.dead_mail(ref, 10)],
        }

    def _shown(self, agent: AgentRow) -> dict[str, Any]:
        shown = agent.model_dump(mode="json", exclude={"state"})
        return {**shown, "runs": self._plans.version_of(agent)}

    def _log(self, ref: str, limit: int) -> list[dict[str, Any]]:
        self._registry.agent(ref)
        return self._registry.agent_log(ref, limit)

    def _dead(self, ref: str | None, limit: int) -> list[dict[str, Any]]:
        if ref is not None:
            self._registry.agent(ref)
        return [mail.model_dump(mode="json") for mail in self._registry.dead_mail(ref, limit)]


def ended(mail: Any) -> dict[str, Any] | None:
    """What became of a message; None while it waits."""
    if mail.state == "waiting":
        return None
    return {"problem": mail.problem} if mail.state == "dead" else {"reply": mail.reply}


def _revive(change: Change, ref: str) -> None:
    agent = change.agent(ref)
    if agent.status != "failed":
        advice = " give it more with grant()" if agent.status == "exhausted" else ""
        raise IllegalTransition(f"agent {ref} is {agent.status}, not failed;{advice}".rstrip(";"))
    change.set_agents([ref], "ready", None)
    change.set_agent(ref, restarts=[])


def _letter(message: Message, asked: Asked, number: int) -> Letter:
    """A message as it is put.

    Raises:
        UsageError: it cannot be stored as JSON. Later it would spoil a transaction of others.
    """
    canonical(message.message)
    operation = None if asked.operation_id is None else f"{asked.operation_id}>{number}"
    return Letter(to=message.to, message=message.message, sender=asked.actor, operation=operation)
