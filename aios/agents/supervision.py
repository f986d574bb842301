"""What follows from a message, before and after it was handled: pure decisions."""

from dataclasses import dataclass

from aios.errors import AiosError, BudgetExceeded, IllegalTransition, Overloaded, UsageError
from aios.records.agents import AgentRow, Letter, Mail, Restarts

MOST_WAITING = 100_000
"""Messages in one mailbox. Who sends to an agent that is so far behind must know."""
MOST_HOPS = 100
"""Messages that led to one another. Two agents that answer each other for ever end here."""
MOST_WAITING_FOR_EACH_OTHER = 8
"""Agents of which each waits for the next one's reply."""
MOST_GENERATIONS = 8
"""Agents of which each spawned the next."""
MOST_DEATHS = 10
"""How often the host of a message may die under it. Hosts die for other reasons too, so this is
more than a message gets that fails by itself."""
LONGEST_BACKOFF_S = 60.0


@dataclass(frozen=True)
class Again:
    """Handle the message once more, not before `due_s` (Unix seconds)."""

    due_s: float


@dataclass(frozen=True)
class Bury:
    """Give the message up. `restarts`: when messages of this agent died, as far as it counts;
    `stop`: it has failed too often and handles no more."""

    restarts: tuple[float, ...]
    stop: bool


def unfit(agent: AgentRow, letter: Letter) -> AiosError | None:
    """Why a message cannot be put into an agent's mailbox; None if it can."""
    ref = agent.ref
    if agent.status == "exhausted":
        return BudgetExceeded(f"agent {ref} takes no messages: {agent.problem}")
    if agent.status != "ready":
        advice = "use another id" if agent.status == "killed" else "let it go on with revive()"
        return IllegalTransition(
            f"agent {ref} is {agent.status} and takes no messages: {agent.problem}; {advice}"
        )
    if agent.waiting >= MOST_WAITING:
        return Overloaded(
            f"{agent.waiting:,} messages wait for agent {ref}, which is the limit; send again when "
            "it has caught up, or share the work among more agents",
            retry_after_s=5.0,
        )
    if ref in letter.path:
        waits = " -> ".join((*letter.path, ref))
        return UsageError(f"{ref} would wait for itself: {waits}; tell it instead of asking")
    if len(letter.path) > MOST_WAITING_FOR_EACH_OTHER:
        waits = " -> ".join((*letter.path, ref))
        return UsageError(
            f"more than {MOST_WAITING_FOR_EACH_OTHER} agents would wait for each other: {waits}"
        )
    if letter.hops > MOST_HOPS:
        return UsageError(
            f"this message to {ref} is the end of a chain of {MOST_HOPS} messages that led to one "
            "another: the agents go round in a circle"
        )
    return None


def after_failure(
    mail: Mail, agent: AgentRow, restarts: Restarts, *, retry: bool, now_s: float
) -> Again | Bury:
    """What becomes of a message whose handling failed, and of its agent.

    Args:
        mail: `attempts` counts those that failed before this one.
        retry: whether another attempt may help.
    """
    if retry and mail.attempts < restarts.retries:
        pause_s = min(restarts.backoff_s * 2**mail.attempts, LONGEST_BACKOFF_S)
        return Again(now_s + pause_s)
    since_s = now_s - restarts.within_s
    counted = (*(at_s for at_s in agent.restarts if at_s > since_s), now_s)
    return Bury(counted, stop=len(counted) > restarts.limit)


def wider(wanted: tuple[str, ...], has: tuple[str, ...]) -> list[str]:
    """The scopes that somebody would give without having them."""
    return sorted(set(wanted) - set(has))
