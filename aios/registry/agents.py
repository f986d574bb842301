"""Agents as they are kept: spawned, stopped and moved to other versions inside audited changes."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, insert, select, update

from aios.errors import IllegalTransition, UnknownName
from aios.records.agents import AgentPlan, AgentRow, AgentStatus, Mail, ToolCall
from aios.registry.base import Reading, Writing, from_row, listed, shown, valid
from aios.store import agent_tables as t


class AgentReads(Reading):
    """Questions about agents."""

    def agent(self, ref: str) -> AgentRow:
        """An agent by `name/id`.

        Raises:
            UnknownName: there is none; the message lists some of that name.
        """
        with self._reading() as connection:
            row = connection.execute(select(t.agents).where(t.agents.c.ref == ref)).first()
        if row is None:
            raise unknown_agent(ref, [one.ref for one in self.agents(ref.partition("/")[0], 21)])
        return from_row(AgentRow, row)

    def agents(self, name: str | None = None, limit: int = 1_000) -> list[AgentRow]:
        """Agents of one name or of all, the last touched first."""
        query = select(t.agents).order_by(t.agents.c.updated_s.desc(), t.agents.c.ref)
        if name is not None:
            query = query.where(t.agents.c.name == name)
        with self._reading() as connection:
            return [from_row(AgentRow, row) for row in connection.execute(query.limit(limit))]

    def agent_counts(self) -> list[dict[str, Any]]:
        """By name and status: how many agents, messages that wait, messages that are done."""
        table = t.agents.c
        query = (
            select(
                table.name,
                table.status,
                func.count().label("agents"),
                func.sum(table.waiting).label("waiting"),
                func.sum(table.handled).label("handled"),
            )
            .group_by(table.name, table.status)
            .order_by(table.name, table.status)
        )
        with self._reading() as connection:
            return [
                {**row._asdict(), "waiting": int(row.waiting), "handled": int(row.handled)}
                for row in connection.execute(query)
            ]

    def agents_below(self, ref: str) -> list[AgentRow]:
        """The agents that this one spawned, theirs, and so on."""
        found: list[AgentRow] = []
        parents = [ref]
        with self._reading() as connection:
            while parents:
                query = select(t.agents).where(t.agents.c.parent.in_(parents))
                children = [from_row(AgentRow, row) for row in connection.execute(query)]
                found += children
                parents = [one.ref for one in children]
        return found

    def agent_mail(self, seq: int) -> Mail:
        """A message by its number.

        Raises:
            UnknownName: there is none.
        """
        with self._reading() as connection:
            row = connection.execute(select(t.mailbox).where(t.mailbox.c.seq == seq)).first()
        if row is None:
            raise UnknownName(f"no message has the number {seq}; old ones are removed")
        return from_row(Mail, row)

    def dead_mail(self, ref: str | None = None, limit: int = 100) -> list[Mail]:
        """Messages that were given up, newest first."""
        query = select(t.mailbox).where(t.mailbox.c.state == "dead")
        if ref is not None:
            query = query.where(t.mailbox.c.agent == ref)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(t.mailbox.c.seq.desc()).limit(limit))
            return [from_row(Mail, row) for row in rows]

    def agent_log(self, ref: str, limit: int = 100) -> list[dict[str, Any]]:
        """What an agent decided and called, newest first."""
        table = t.agent_log.c
        query = select(t.agent_log).where(table.agent == ref).order_by(table.seq.desc())
        with self._reading() as connection:
            return [row._asdict() for row in connection.execute(query.limit(limit))]

    def waiting_calls(self) -> list[ToolCall]:
        """Tool calls that wait for a person, oldest first; not those of messages that were given
        up, as when their agent was killed."""
        query = select(t.tool_calls).where(t.tool_calls.c.state == "waiting")
        waits = (t.mailbox.c.seq == t.tool_calls.c.message) & (t.mailbox.c.state == "waiting")
        query = query.join(t.mailbox, waits)
        return self._calls(query.order_by(t.tool_calls.c.at_s))

    def tool_call(self, key: str) -> ToolCall | None:
        """A guarded tool call by its key."""
        return next(iter(self._calls(select(t.tool_calls).where(t.tool_calls.c.key == key))), None)

    def agent_plan(self, name: str) -> AgentPlan | None:
        """The plan by which agents of a name run another version, if there is one."""
        return next((plan for plan in self.agent_plans() if plan.name == name), None)

    def agent_plans(self) -> list[AgentPlan]:
        """All of them."""
        with self._reading() as connection:
            rows = connection.execute(select(t.agent_plans).order_by(t.agent_plans.c.name))
            return [from_row(AgentPlan, row) for row in rows]

    def _calls(self, query: Select[Any]) -> list[ToolCall]:
        with self._reading() as connection:
            return [from_row(ToolCall, row) for row in connection.execute(query)]


class AgentWrites(Writing, AgentReads):
    """Changes of agents that are audited."""

    def spawn_agent(self, row: AgentRow) -> AgentRow:
        """Add an agent; the one that is there already if its id was used before.

        Raises:
            IllegalTransition: that one was killed, or has other scopes.
        """
        found = self._open().execute(select(t.agents).where(t.agents.c.ref == row.ref)).first()
        if found is None:
            self._open().execute(insert(t.agents).values(**row.model_dump(mode="json")))
            return row
        there = from_row(AgentRow, found)
        if there.status == "killed":
            raise IllegalTransition(f"agent {row.ref} was killed ({there.problem}); use another id")
        if set(there.scopes) != set(row.scopes):
            raise IllegalTransition(
                f"agent {row.ref} is there already, with the scopes "
                f"{listed(there.scopes)} and not {listed(row.scopes)}; use another id"
            )
        return there

    def set_agents(self, refs: Sequence[str], status: AgentStatus, problem: str | None) -> None:
        """Give agents a status. Whatever a host does with them from now on does not count."""
        values = {"status": status, "problem": problem, "epoch": None, "updated_s": self.at_s}
        self._open().execute(update(t.agents).where(t.agents.c.ref.in_(refs)).values(**values))

    def set_agent(self, ref: str, **values: Any) -> None:
        """Change columns of one agent."""
        here = update(t.agents).where(t.agents.c.ref == ref)
        self._open().execute(here.values(**values, updated_s=self.at_s))

    def bury_mail(self, refs: Sequence[str], problem: dict[str, Any]) -> list[int]:
        """Give up all that waits for these agents; the numbers of the messages."""
        table = t.mailbox
        waiting = table.c.agent.in_(refs) & (table.c.state == "waiting")
        found = [seq for (seq,) in self._open().execute(select(table.c.seq).where(waiting))]
        values = {"state": "dead", "problem": problem, "ended_s": self.at_s}
        self._open().execute(update(table).where(waiting).values(**values))
        self._open().execute(update(t.agents).where(t.agents.c.ref.in_(refs)).values(waiting=0))
        return found

    def revive_mail(self, seq: int) -> None:
        """Let a message that was given up be handled once more, in its old place."""
        table = t.mailbox
        found = self.agent_mail(seq)
        if found.state != "dead":
            raise IllegalTransition(f"message {seq} of {found.agent} is {found.state}, not dead")
        values = {"state": "waiting", "attempts": 0, "deaths": 0, "due_s": 0.0, "ended_s": None}
        self._open().execute(update(table).where(table.c.seq == seq).values(**values))
        more = update(t.agents).where(t.agents.c.ref == found.agent)
        self._open().execute(more.values(waiting=t.agents.c.waiting + 1))

    def put_tool_call(self, call: ToolCall) -> None:
        """Add a guarded call, or change the one with this key."""
        values = call.model_dump(mode="json")
        here = t.tool_calls.c.key == call.key
        if not self._open().execute(update(t.tool_calls).where(here).values(**values)).rowcount:
            self._open().execute(insert(t.tool_calls).values(**values))

    def put_agent_plan(self, plan: AgentPlan) -> None:
        """Let a plan be that of its name."""
        valid(AgentPlan, **plan.model_dump())
        self.drop_agent_plan(plan.name)
        self._open().execute(insert(t.agent_plans).values(**plan.model_dump()))

    def drop_agent_plan(self, name: str) -> None:
        """Let every agent of a name run its own version."""
        self._open().execute(t.agent_plans.delete().where(t.agent_plans.c.name == name))

    def settle_agents(self, name: str, version: int) -> int:
        """Make a version the own one of all agents of a name; how many there are."""
        here = update(t.agents).where(t.agents.c.name == name)
        self._open().execute(here.values(version=version))
        count = select(func.count()).select_from(t.agents).where(t.agents.c.name == name)
        return int(self._open().execute(count).scalar_one())


def unknown_agent(ref: str, others: Sequence[str]) -> UnknownName:
    """The error for an agent that is not there."""
    known = f"there are: {listed(others)}" if others else "rt.agents() lists them all"
    return UnknownName(f"no agent {shown(ref)}; an agent is called name/id; {known}")
