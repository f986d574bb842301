"""What came of the tickets, as figures. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apps.support_triage.traffic import Desk
from apps.support_triage.triage import PERSON

DEFLECTED = ("rule", "model")


@dataclass(frozen=True)
class Outcome:
    """One ticket: what it was, what the desk said, and by whom or what. Times are seconds since the
    desk opened; `answered_s` and `said` are None while nobody has answered."""

    ticket: str
    way: str
    true: str
    sent_s: float
    answered_s: float | None = None
    said: str | None = None
    by: str | None = None
    guess: str | None = None
    version: int | None = None
    arm: str | None = None
    confidence: float | None = None

    @property
    def took_s(self) -> float | None:
        """From sent to answered."""
        return None if self.answered_s is None else self.answered_s - self.sent_s

    @property
    def deflected(self) -> bool:
        """Answered without a person."""
        return self.by in DEFLECTED

    @property
    def right(self) -> bool:
        return self.said == self.true


@dataclass(frozen=True)
class Happened:
    """Something that was done to the desk."""

    at_s: float
    text: str


@dataclass(frozen=True)
class Times:
    """How long answers took: how many there are, and two quantiles in seconds (NaN of none)."""

    count: int
    p50_s: float
    p95_s: float


@dataclass(frozen=True)
class Kpis:
    """Of some tickets: how many, and of those that were answered what share without a person, how
    long that took and how often it was right."""

    tickets: int
    answered: int
    deflected: int
    right: int
    escalated: int
    unplaced: int
    quick: Times
    slow: Times

    @property
    def deflection(self) -> float:
        """Share of answered tickets that needed no person; NaN of none."""
        return share(self.deflected, self.answered)

    @property
    def accuracy(self) -> float:
        """Share of deflected tickets that were answered right; NaN of none."""
        return share(self.right, self.deflected)


def outcomes(desk: Desk) -> list[Outcome]:
    """Every ticket that was sent, in order."""
    found = []
    for sent in desk.sent.copy().values():
        begun = Outcome(sent.ticket.id, sent.way, sent.ticket.product, sent.at_s)
        reply = desk.answered.get(sent.ticket.id)
        if reply is not None:
            told = reply.told
            begun = Outcome(
                *(begun.ticket, begun.way, begun.true, begun.sent_s, reply.at_s),
                said=told["product"],
                **{name: told[name] for name in ("by", "guess", "version", "arm", "confidence")},
            )
        found.append(begun)
    return found


def kpis(found: Iterable[Outcome]) -> Kpis:
    """The figures of some tickets."""
    every = list(found)
    known = [one for one in every if one.answered_s is not None]
    quick = [one for one in known if one.deflected]
    slow = [one for one in known if one.by == PERSON]
    return Kpis(
        tickets=len(every),
        answered=len(known),
        deflected=len(quick),
        right=sum(one.right for one in quick),
        escalated=len(slow),
        unplaced=len(known) - len(quick) - len(slow),
        quick=times(quick),
        slow=times(slow),
    )


def by_product(found: Iterable[Outcome]) -> dict[str, Kpis]:
    """The figures for each true product, the most frequent first."""
    groups: dict[str, list[Outcome]] = {}
    for one in found:
        groups.setdefault(one.true, []).append(one)
    return {name: kpis(groups[name]) for name in sorted(groups, key=lambda n: -len(groups[n]))}


def times(found: Iterable[Outcome]) -> Times:
    """How long these took."""
    every = [one.took_s for one in found if one.took_s is not None]
    return Times(len(every), quantile(every, 0.5), quantile(every, 0.95))


def quantile(values: Sequence[float], level: float) -> float:
    """The smallest value that at least this share of them does not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(level * len(values)) - 1)]


def share(part: int, whole: int) -> float:
    """A part as a fraction; NaN of nothing."""
    return part / whole if whole else math.nan


@dataclass(frozen=True)
class Ledger:
    """The proof: tickets that were sent, messages on the queue of replies, and how they fit."""

    sent: int
    replies: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    strange: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Every ticket has exactly one reply, and there is no other."""
        return not (self.lost or self.twice or self.strange)


def ledger(desk: Desk) -> Ledger:
    """Replies against tickets, by the messages that were on the queue."""
    counts: dict[str, int] = {}
    for reply in desk.replies:
        counts[reply.ticket] = counts.get(reply.ticket, 0) + 1
    return Ledger(
        sent=len(desk.sent),
        replies=len(desk.replies),
        lost=tuple(one for one in desk.sent if one not in counts),
        twice=tuple(one for one, count in counts.items() if count > 1),
        strange=tuple(one for one in counts if one not in desk.sent),
    )


@dataclass(frozen=True)
class Bill:
    """What the machines cost from opening to closing, and by what used them.

    `person_cost` is an assumption: what a person's time for one ticket costs.
    """

    currency: str
    whole: float
    parts: Mapping[str, float]
    person_cost: float

    @property
    def adds_up(self) -> bool:
        """Whether the parts sum to the bill, to rounding."""
        return math.isclose(sum(self.parts.values()), self.whole, rel_tol=1e-6, abs_tol=1e-12)

    def machines(self, tickets: int, of: int) -> float:
        """The share of so many tickets out of all: each costs the same."""
        return self.whole * share(tickets, of)

    def people(self, found: Kpis) -> float:
        """What the people's time cost."""
        return self.person_cost * found.escalated


@dataclass(frozen=True)
class Spent:
    """What the runtime says that it has cost in all by now, and each part of it."""

    whole: float
    parts: Mapping[str, float]


def bill_between(before: Spent, after: Spent, currency: str, person_cost: float) -> Bill:
    """The bill from one look to a later one."""
    names = {**before.parts, **after.parts}
    parts = {name: after.parts.get(name, 0.0) - before.parts.get(name, 0.0) for name in names}
    return Bill(currency, after.whole - before.whole, parts, person_cost)


@dataclass(frozen=True)
class Point:
    """What a threshold would give: the share of tickets that the classifier would answer, and how
    often it would be right."""

    at_least: float
    answered: float
    right: float


def trade_off(found: Iterable[Outcome], version: int) -> list[Point]:
    """For each threshold from 0 to 0.95, on the tickets that a version was asked about."""
    asked = [one for one in found if one.version == version and one.confidence is not None]
    points = []
    for step in range(20):
        at_least = step * 0.05
        sure = [one for one in asked if (one.confidence or 0.0) >= at_least]
        right = sum(one.guess == one.true for one in sure)
        points.append(Point(at_least, share(len(sure), len(asked)), share(right, len(sure))))
    return points
