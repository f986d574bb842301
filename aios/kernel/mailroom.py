"""What is done with agents' messages inside one transaction: put, handled, failed, handed out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from aios.agents.supervision import MOST_DEATHS, Again, Bury, after_failure, unfit
from aios.errors import AiosError, PermanentError, TemporaryError
from aios.records.agents import (
    AgentFacts,
    AgentPlan,
    AgentRow,
    Delivery,
    Entry,
    Letter,
    Mail,
    Spent,
    Turn,
)
from aios.registry.mailbox import Mailbox
from aios.serving.split import covered

Facts = Mapping[tuple[str, int], AgentFacts]


@dataclass
class News:
    """What one transaction changed that others wait for, once it is on disk.

    Attributes:
        replies: what became of messages, by their numbers: `{"reply"}` or `{"problem"}`.
        work: agents for which a message may wait now.
        over: messages that no host handles any more.
        worse: agents' names and the versions on trial that failed what the agent's own version
            then handled.
    """

    replies: dict[int, dict[str, Any]] = field(default_factory=dict)
    work: list[str] = field(default_factory=list)
    over: list[int] = field(default_factory=list)
    worse: list[tuple[str, int]] = field(default_factory=list)


class Mailroom:
    """One transaction over all mailboxes.

    Args:
        facts: gives what was read off an agent's version.
        plans: by which agents of a name run another version.
    """

    def __init__(
        self,
        connection: Connection,
        now_s: float,
        facts: "FactsOf",
        plans: Mapping[str, AgentPlan],
    ) -> None:
        self.box = Mailbox(connection, now_s)
        self.news = News()
        self._facts = facts
        self._plans = plans

    def put(self, letter: Letter) -> int:
        """Put a message into its agent's mailbox; its number, the same if it came before.

        Raises:
            UnknownName, IllegalTransition, BudgetExceeded, Overloaded, UsageError: it cannot be.
        """
        before = self.box.known(letter.operation)
        if before is not None:
            return before
        self.refuse_unfit(letter)
        return self._add(letter)

    def put_all(self, letters: Sequence[Letter]) -> list[int]:
        """Put messages together, or none of them; see `put`."""
        self.box.agents([letter.to for letter in letters])
        new = [letter for letter in letters if self.box.known(letter.operation) is None]
        for letter in new:
            self.refuse_unfit(letter)
        return [self.put(letter) for letter in letters]

    def finish_all(self, epoch: int, turns: Sequence[Turn]) -> list[bool]:
        """Take what became of deliveries; see `finish`."""
        self.box.mails([turn.seq for turn in turns if not turn.dry])
        self.box.agents([turn.agent for turn in turns])
        return [self.finish(epoch, turn) for turn in turns]

    def refuse_unfit(self, letter: Letter) -> None:
        """Raise why a message cannot be put, if it cannot."""
        fault = unfit(self.box.agent(letter.to), letter)
        if fault is not None:
            raise fault

    def finish(self, epoch: int, turn: Turn) -> bool:
        """Take what became of a delivery; False where it does not count, since the message is
        another host's by now, is over, or was delivered again."""
        if turn.dry:
            self._log_shadow(turn)
            return True
        mail = self.box.mails([turn.seq]).get(turn.seq)
        agent = self.box.agents([turn.agent]).get(turn.agent)
        if mail is None or agent is None or mail.state != "waiting":
            return False
        if agent.epoch != epoch or _attempt(mail) != turn.attempt:
            return False
        self.news.over.append(turn.seq)
        self.news.work.append(turn.agent)
        spent = agent.spent.plus(turn.spent)
        self.box.log(turn.agent, turn.seq, turn.version, turn.entries)
        self.box.end_calls(turn.calls)
        fault = None if turn.problem else self._undeliverable(turn)
        if fault is not None:
            retry = isinstance(fault, TemporaryError)
            turn = turn.model_copy(update={"problem": fault.to_problem(), "retry": retry})
        if turn.problem is not None:
            self._fail(mail, agent, turn, turn.problem, spent)
            return True
        self.box.end_mail(mail, "done", turn.version, reply=turn.reply)
        left = {"waiting": agent.waiting - 1, "handled": agent.handled + 1, "spent": spent}
        self.box.set_agent(turn.agent, state=turn.state, **left)
        for number, letter in enumerate(turn.sent):
            operation = f"{turn.agent}#{turn.seq}>{number}"
            self._add(letter.model_copy(update={"operation": operation}))
        self.news.replies[turn.seq] = {"reply": turn.reply}
        trial = on_trial(agent, self._plans.get(agent.name))
        if mail.attempts and trial is not None and trial != turn.version:
            self.news.worse.append((agent.name, trial))
        return True

    def lost(self, seqs: Collection[int], culprit: int | None, why: str) -> None:
        """Take up again what a host had that is gone. The message that held it up, if that is
        known, has failed; of the others nobody knows."""
        others = [seq for seq in seqs if seq != culprit]
        if others:
            self.box.died(others)
        for mail in self.box.mails(seqs).values():
            if mail.state != "waiting":
                continue
            self.news.over.append(mail.seq)
            self.news.work.append(mail.agent)
            if mail.seq != culprit and mail.deaths < MOST_DEATHS:
                continue
            agent = self.box.agents([mail.agent])[mail.agent]
            told = f"its process ended while it handled message {mail.seq}: {why}"
            turn = Turn(
                agent=mail.agent,
                seq=mail.seq,
                attempt=_attempt(mail),
                version=agent.version,
                retry=mail.seq == culprit,
            )
            problem = PermanentError(told).to_problem()
            self._fail(mail, agent, turn, problem, agent.spent)

    def hand_out(
        self, refs: Collection[str], epoch: int
    ) -> tuple[list[Delivery], dict[str, float]]:
        """The oldest message of each of these agents, now in the hands of a host; and those for
        which it is too early, with the time from which on it is not."""
        mails = self.box.oldest(refs)
        agents = self.box.agents([mail.agent for mail in mails])
        found, early, moved = [], {}, []
        for mail in mails:
            agent = agents[mail.agent]
            if agent.status != "ready":
                continue
            if mail.due_s > self.box.now_s:
                early[mail.agent] = mail.due_s
                continue
            if agent.epoch != epoch:
                moved.append(agent.ref)
            found += _deliveries(mail, agent, self._plans.get(agent.name))
        self.box.place(moved, epoch)
        return found, early

    def _add(self, letter: Letter) -> int:
        seq = self.box.put(letter)
        self.news.work.append(letter.to)
        return seq

    def _undeliverable(self, turn: Turn) -> AiosError | None:
        """Why one of the messages that a turn sends cannot be put: then nothing of it counts."""
        for letter in turn.sent:
            try:
                self.refuse_unfit(letter)
            except AiosError as error:
                return error
        return None

    def _fail(
        self, mail: Mail, agent: AgentRow, turn: Turn, problem: dict[str, Any], spent: Spent
    ) -> None:
        """A message could not be handled: again, or to the dead ones, and maybe the agent stops."""
        facts = self._facts(agent.name, agent.version)
        told = str(problem.get("detail"))
        self.box.log(
            agent.ref, mail.seq, turn.version, [Entry(kind="failure", choice="", reason=told)]
        )
        now_s = self.box.now_s
        became = after_failure(mail, agent, facts.restarts, retry=turn.retry, now_s=now_s)
        if turn.version == on_trial(agent, self._plans.get(agent.name)) and not mail.attempts:
            became = Again(now_s)  # by the agent's own version: a trial must not hurt
        if not isinstance(became, Bury):
            self.box.try_again(mail, became.due_s, problem)
            self.box.set_agent(agent.ref, spent=spent)
            return
        self.box.end_mail(mail, "dead", turn.version, problem=problem)
        self.news.replies[mail.seq] = {"problem": problem}
        values = {"waiting": agent.waiting - 1, "spent": spent, "restarts": became.restarts}
        if turn.exhausted:
            self.box.set_agent(agent.ref, **values, status="exhausted", problem=told)
        elif became.stop:
            why = (
                f"{len(became.restarts)} of its messages died within "
                f"{facts.restarts.within_s:.0f} s, the last one of: {told}"
            )
            self.box.set_agent(agent.ref, **values, status="failed", problem=why)
            self._escalate(agent, why)
        else:
            self.box.set_agent(agent.ref, **values)

    def _escalate(self, agent: AgentRow, why: str) -> None:
        """Tell the nearest agent above that supervises and can be told."""
        above = agent.parent
        while above is not None:
            found = self.box.agents([above]).get(above)
            if found is None:
                return
            letter = Letter(
                to=above,
                kind="child_failed",
                message={"child": agent.ref, "problem": why},
                sender=agent.ref,
            )
            supervises = self._facts(found.name, found.version).supervises
            if supervises and unfit(found, letter) is None:
                self._add(letter)
                return
            above = found.parent

    def _log_shadow(self, turn: Turn) -> None:
        """Keep what a shadow would have done, beside what was answered."""
        wanted = turn.problem or {"reply": turn.reply}
        sent = [f"{letter.to}: {letter.message!r:.200}" for letter in turn.sent]
        entry = Entry(
            kind="shadow",
            choice=f"version {turn.version}",
            reason=str(turn.problem["detail"]) if turn.problem else "",
            details={"answer": wanted, "sent": sent},
        )
        self.box.log(turn.agent, turn.seq, turn.version, [*turn.entries, entry])


class FactsOf:
    """What was read off agents' versions, each asked for once."""

    def __init__(self, find: Any) -> None:
        self._find = find
        self._known: dict[tuple[str, int], AgentFacts] = {}

    def __call__(self, name: str, version: int) -> AgentFacts:
        if (name, version) not in self._known:
            self._known[name, version] = AgentFacts.model_validate(self._find(name, version))
        return self._known[name, version]


def version_of(agent: AgentRow, plan: AgentPlan | None) -> int:
    """The version that an agent runs now: the plan's where its share covers the agent's id."""
    if plan is None or plan.shadow or not covered(plan.salt, agent.id, plan.share):
        return agent.version
    return plan.version


def on_trial(agent: AgentRow, plan: AgentPlan | None) -> int | None:
    """The version that is tried on an agent while a share of all has it; None if none is."""
    if plan is None or plan.share >= 1 or version_of(agent, plan) == agent.version:
        return None
    return plan.version


def _attempt(mail: Mail) -> int:
    """Which delivery of a message this is: what an earlier one did does not count."""
    return mail.attempts + mail.deaths


def _deliveries(mail: Mail, agent: AgentRow, plan: AgentPlan | None) -> list[Delivery]:
    """A message for its agent, and for its shadow if it has one."""
    fields = mail.model_dump(include={"seq", "kind", "message", "sender", "path", "hops"})
    fields |= agent.model_dump(
        include={"ref", "name", "id", "state", "budget", "spent", "scopes", "parent"}
    )
    fields["attempt"] = _attempt(mail)
    tried = mail.attempts and on_trial(agent, plan) is not None
    version = agent.version if tried else version_of(agent, plan)
    found = [Delivery(**fields, version=version)]
    if plan is not None and plan.shadow and covered(plan.salt, agent.id, plan.share):
        found.append(Delivery(**fields, version=plan.version, dry=True))
    return found
