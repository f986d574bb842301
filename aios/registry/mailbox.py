"""Mailboxes inside one open transaction: messages come, are handled once, or are given up."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)

from aios.records import Record
from aios.records.agents import AgentRow, CallEnd, Entry, Letter, Mail, MailState
from aios.registry.agents import unknown_agent
from aios.registry.base import from_row
from aios.store import agent_tables as t

_M, _A = t.mailbox.c, t.agents.c
# Made once: building a statement anew costs more than executing it.
_WAITS = _M.state == literal_column("'waiting'")
"""Spelled out, as SQLite takes its partial index only then."""
_BY_OPERATION = select(_M.seq).where(_M.operation == bindparam("operation"))
_ADD = insert(t.mailbox).returning(_M.seq)
_SEQS: BindParameter[Any] = bindparam("seqs", expanding=True)
_REFS: BindParameter[Any] = bindparam("refs", expanding=True)
_OLDEST = select(func.min(_M.seq)).where(_WAITS, _M.agent.in_(_REFS)).group_by(_M.agent)
_MAILS = select(t.mailbox).where(_M.seq.in_(_SEQS))
_AGENTS = select(t.agents).where(_A.ref.in_(_REFS))
_END = (
    update(t.mailbox)
    .where(_M.seq == bindparam("there"), _WAITS)
    .values(
        state=bindparam("new_state"),
        reply=bindparam("new_reply"),
        problem=bindparam("new_problem"),
        version=bindparam("new_version"),
        attempts=bindparam("new_attempts"),
        ended_s=bindparam("now_s"),
    )
)


class Mailbox:
    """All mailboxes, in one transaction at one time (Unix seconds).

    What was read is kept, and what changes of agents and of messages that end is written together
    by `flush`: a transaction is about hundreds of messages, and a statement for each would cost
    more than all else.
    """

    def __init__(self, connection: Connection, now_s: float) -> None:
        self._connection = connection
        self.now_s = now_s
        self._agents: dict[str, AgentRow] = {}
        self._mails: dict[int, Mail] = {}
        self._changed: dict[str, dict[str, Any]] = {}
        self._ended: list[dict[str, Any]] = []

    def flush(self) -> None:
        """Write what was put off."""
        if self._ended:
            self._connection.execute(_END, self._ended)
            self._ended = []
        together: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for ref, values in self._changed.items():
            row = {f"new_{name}": _plain(value) for name, value in values.items()}
            together.setdefault(tuple(sorted(values)), []).append({"there": ref, **row})
        for names, rows in together.items():
            new: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
            at = update(t.agents).where(_A.ref == bindparam("there"))
            self._connection.execute(at.values(**new, updated_s=self.now_s), rows)
        self._changed = {}

    def known(self, operation: str | None) -> int | None:
        """The number of the message that came under this operation before."""
        if operation is None:
            return None
        found = self._connection.execute(_BY_OPERATION, {"operation": operation}).scalar()
        return None if found is None else int(found)

    def agent(self, ref: str) -> AgentRow:
        """An agent by `name/id`.

        Raises:
            UnknownName: there is none.
        """
        found = self.agents([ref]).get(ref)
        if found is not None:
            return found
        name = ref.partition("/")[0]
        some = select(_A.ref).where(_A.name == name).order_by(_A.updated_s.desc()).limit(21)
        raise unknown_agent(ref, [one for (one,) in self._connection.execute(some)])

    def put(self, letter: Letter) -> int:
        """Add a message at the end of its agent's mailbox; its number."""
        values = {
            "agent": letter.to,
            "kind": letter.kind,
            "message": letter.message,
            "sender": letter.sender,
            "path": list(letter.path),
            "hops": letter.hops,
            "operation": letter.operation,
            "state": "waiting",
            "attempts": 0,
            "deaths": 0,
            "due_s": 0.0,
            "at_s": self.now_s,
        }
        seq = int(self._connection.execute(_ADD, values).scalar_one())
        self.set_agent(letter.to, waiting=self.agent(letter.to).waiting + 1)
        return seq

    def mails(self, seqs: Collection[int]) -> dict[int, Mail]:
        """Messages by their numbers."""
        missing = [seq for seq in seqs if seq not in self._mails]
        if missing:
            for row in self._connection.execute(_MAILS, {"seqs": missing}):
                self._mails[row.seq] = from_row(Mail, row)
        return {seq: self._mails[seq] for seq in seqs if seq in self._mails}

    def agents(self, refs: Collection[str]) -> dict[str, AgentRow]:
        """Agents by their refs."""
        missing = [ref for ref in refs if ref not in self._agents]
        if missing:
            for row in self._connection.execute(_AGENTS, {"refs": missing}):
                self._agents[row.ref] = from_row(AgentRow, row)
        return {ref: self._agents[ref] for ref in refs if ref in self._agents}

    def oldest(self, refs: Collection[str]) -> list[Mail]:
        """The oldest message that waits for each of these agents, due or not."""
        self.flush()
        seqs = [seq for (seq,) in self._connection.execute(_OLDEST, {"refs": list(refs)})]
        return list(self.mails(seqs).values()) if seqs else []

    def waiting_agents(self) -> list[str]:
        """Every agent for which a message waits."""
        query = select(_M.agent).where(_WAITS).distinct()
        return [ref for (ref,) in self._connection.execute(query)]

    def place(self, refs: Iterable[str], epoch: int) -> None:
        """Let the host of this epoch, and no other, have these agents."""
        for ref in refs:
            self.set_agent(ref, epoch=epoch)

    def try_again(self, mail: Mail, due_s: float, problem: dict[str, Any]) -> None:
        """A message failed once more; it is handled again from a time on."""
        values = {"attempts": mail.attempts + 1, "due_s": due_s, "problem": problem}
        here = update(t.mailbox).where(_M.seq == mail.seq, _WAITS)
        self._connection.execute(here.values(**values))
        self._mails[mail.seq] = mail.model_copy(update=values)

    def end_mail(
        self,
        mail: Mail,
        state: MailState,
        version: int,
        *,
        reply: Any = None,
        problem: dict[str, Any] | None = None,
    ) -> None:
        """A message is done, or dead; it waits no more."""
        values = {"state": state, "reply": reply, "problem": problem, "version": version}
        values["attempts"] = mail.attempts + (problem is not None)
        named = {f"new_{name}": value for name, value in values.items()}
        self._ended.append({"there": mail.seq, "now_s": self.now_s, **named})
        self._mails[mail.seq] = mail.model_copy(update=values)

    def set_agent(self, ref: str, **values: Any) -> None:
        """Change an agent."""
        self._agents[ref] = self.agent(ref).model_copy(update=values)
        self._changed.setdefault(ref, {}).update(values)

    def died(self, seqs: Collection[int]) -> None:
        """The host that had these messages is gone."""
        here = update(t.mailbox).where(_M.seq.in_(list(seqs)), _WAITS)
        self._connection.execute(here.values(deaths=_M.deaths + 1))
        for seq in seqs:
            self._mails.pop(seq, None)

    def log(self, agent: str, message: int, version: int, entries: Sequence[Entry]) -> None:
        """Keep what an agent decided and called."""
        rows = [
            {
                "agent": agent,
                "message": message,
                "version": version,
                "at_s": self.now_s,
                **entry.model_dump(mode="json"),
            }
            for entry in entries
        ]
        if rows:
            self._connection.execute(insert(t.agent_log), rows)

    def end_calls(self, calls: Sequence[CallEnd]) -> None:
        """Keep how guarded tool calls ended, so that they are not made again."""
        for call in calls:
            here = update(t.tool_calls).where(t.tool_calls.c.key == call.key)
            state = "failed" if call.problem is not None else "done"
            values = {"result": call.result, "problem": call.problem, "ended_s": self.now_s}
            self._connection.execute(here.values(state=state, **values))

    def open_host(self) -> int:
        """The epoch of a host that begins now: higher than any before."""
        made = insert(t.agent_hosts).values(started_s=self.now_s).returning(t.agent_hosts.c.epoch)
        return int(self._connection.execute(made).scalar_one())

    def close_host(self, epoch: int, problem: str) -> None:
        """A host is gone, or counts as gone."""
        here = update(t.agent_hosts).where(t.agent_hosts.c.epoch == epoch)
        self._connection.execute(here.values(ended_s=self.now_s, problem=problem))

    def remove_old(self, before_s: float) -> int:
        """Remove messages that were done, or given up, before a time, and what was logged before
        it; never the newest message, so that no number is used twice. How many messages."""
        self._connection.execute(t.agent_log.delete().where(t.agent_log.c.at_s < before_s))
        newest = select(func.max(_M.seq)).scalar_subquery()
        old = (_M.state != "waiting") & (_M.ended_s < before_s) & (_M.seq < newest)
        return self._connection.execute(t.mailbox.delete().where(old)).rowcount


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
