"""What came of it: counts that must hold, what was detected, and what standing still cost. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Literal

from apps.predictive_maintenance.costs import Bill, bill
from apps.predictive_maintenance.plant import Life, Plan, Wear, lived, never, routine
from apps.predictive_maintenance.watching import Watching

VERDICTS = ("normal", "anomalous", "sensor")
Became = Literal["repaired", "too late", "refused", "unanswered", "open"]


@dataclass(frozen=True)
class Look:
    """The stream at one moment: the tick, readings sent until then, and how many were not read from
    the broker, and not judged."""

    tick: int
    sent: int
    lag: int
    waiting: int


@dataclass(frozen=True)
class Kill:
    """A process that was killed."""

    what: str
    pid: int
    tick: int
    at_s: float


@dataclass(frozen=True)
class Intervention:
    """One that was opened: by a reading of a tick, so long after that was sent (seconds), and what
    became of it. `right` says whether the machine was wearing out."""

    id: str
    machine: str
    tick: int
    response_s: float
    became: Became
    why: str
    right: bool
    stopped_tick: int | None = None
    lives: int = 1


@dataclass(frozen=True)
class Caught:
    """A wear, and the intervention that stopped the machine for it: `lead_ticks` before it would
    have broken."""

    machine: str
    wear: Wear
    opened_tick: int | None
    lead_ticks: int | None


@dataclass(frozen=True)
class MachineTold:
    """One machine, for the picture."""

    plan: Plan
    life: Life
    ticks: list[int]
    anomalous: list[bool]
    verdicts: list[str]
    judged: int
    repeated: int


@dataclass(frozen=True)
class Outcome:
    """One run of the story."""

    machines: tuple[MachineTold, ...]
    interventions: tuple[Intervention, ...]
    caught: tuple[Caught, ...]
    bills: Mapping[str, Bill]
    ticks: int
    tick_s: float
    sent: int
    judged: int
    repeated: int
    flow_ids: tuple[str, ...]
    reservations: tuple[Mapping[str, Any], ...]
    calls: tuple[tuple[str, str], ...]
    looks: tuple[Look, ...]
    kills: tuple[Kill, ...]
    dead: int
    cost: Any
    model: Mapping[str, float]
    machine: str
    kills_wanted: int = 0

    @property
    def confusion(self) -> Counter[tuple[bool, str]]:
        """How many readings that were anomalous or not got each verdict."""
        return Counter(
            pair for one in self.machines for pair in zip(one.anomalous, one.verdicts, strict=False)
        )

    @property
    def precision(self) -> float:
        """Of the interventions that were opened, on machines that were wearing out."""
        return _share(sum(one.right for one in self.interventions), len(self.interventions))

    @property
    def recall(self) -> float:
        """Of the wears that there was time for, those for which one was opened."""
        over = [one for one in self.caught if one.wear.how != "open" or one.opened_tick is not None]
        return _share(sum(one.opened_tick is not None for one in over), len(over))

    @property
    def leads(self) -> list[int]:
        """Ticks by which machines were stopped before they would have broken."""
        return [one.lead_ticks for one in self.caught if one.lead_ticks is not None]

    @property
    def responses_s(self) -> tuple[float, float]:
        """From a reading sent to the intervention that it opened: median and 95th percentile."""
        found = sorted(one.response_s for one in self.interventions)
        if len(found) < 2:
            return (found[0], found[0]) if found else (math.nan, math.nan)
        return median(found), quantiles(found, n=20, method="inclusive")[-1]


def collect(
    site: Any,
    states: Mapping[str, Watching],
    verdicts: Mapping[str, list[str]],
    *,
    plans: Sequence[Plan],
    flows: Sequence[Mapping[str, Any]],
    reservations: Sequence[Mapping[str, Any]],
    calls: Sequence[tuple[str, str]],
    said: Mapping[str, tuple[bool, str]],
    looks: Sequence[Look],
    kills: Sequence[Kill],
    dead: Sequence[Any],
    **known: Any,
) -> Outcome:
    """Put together what the machines, the agents, the flows and the technicians' roster know.

    Args:
        site: the machines; see `stream.Site`.
        verdicts: of each machine's readings, in order.
        said: what the person answered, by the flow's id.
    """
    machines = tuple(
        MachineTold(
            plan,
            site.lives[plan.machine],
            site.sent[plan.machine].ticks,
            site.sent[plan.machine].anomalous,
            verdicts[plan.machine],
            states[plan.machine].judged,
            states[plan.machine].repeated,
        )
        for plan in plans
    )
    interventions = tuple(interventions_of(machines, states, flows, said, site.obeyed))
    lives = {
        "with aios": [one.life for one in machines],
        "never stopped": [lived(plan, site.ticks, never) for plan in plans],
        "fixed schedule": [lived(plan, site.ticks, routine) for plan in plans],
    }
    return Outcome(
        machines=machines,
        interventions=interventions,
        caught=tuple(_caught(machines, interventions)),
        bills={name: bill(found) for name, found in lives.items()},
        ticks=site.ticks,
        tick_s=site.tick_s,
        sent=site.readings_sent,
        judged=sum(state.judged for state in states.values()),
        repeated=sum(state.repeated for state in states.values()),
        flow_ids=tuple(row["id"] for row in flows),
        reservations=tuple(reservations),
        calls=tuple(calls),
        looks=tuple(looks),
        kills=tuple(kills),
        dead=len(dead),
        **known,
    )


def interventions_of(
    machines: Sequence[MachineTold],
    states: Mapping[str, Watching],
    flows: Sequence[Mapping[str, Any]],
    said: Mapping[str, tuple[bool, str]],
    obeyed: Sequence[Any],
) -> list[Intervention]:
    """What agents opened, and what became of it, in the order of their ticks."""
    rows = {row["id"]: row for row in flows}
    stops = {one.intervention: one for one in obeyed if one.do == "stop"}
    found = []
    for told in machines:
        for opened in states[told.plan.machine].opened:
            row, stop = rows.get(opened.id), stops.get(opened.id)
            tick = told.ticks[opened.reading - 1]
            became = _became(row, said.get(opened.id), stop)
            found.append(
                Intervention(
                    id=opened.id,
                    machine=told.plan.machine,
                    tick=tick,
                    response_s=opened.opened_s - opened.sent_s,
                    became=became,
                    why=said[opened.id][1] if opened.id in said else "nobody answered in time",
                    right=any(wear.begin <= tick <= wear.end for wear in told.life.wears),
                    stopped_tick=stop.tick if became == "repaired" else None,
                    lives=0 if row is None else row["lives"],
                )
            )
    return sorted(found, key=lambda one: (one.tick, one.machine))


def surprises(found: Outcome) -> list[str]:
    """What does not hold of all that should: nothing lost, nothing twice, nothing left open."""
    opened = [one.id for one in found.interventions]
    held = [row for row in found.reservations if row["state"] == "reserved"]
    used = [row for row in found.reservations if row["state"] == "used"]
    stopped = [one for one in found.interventions if one.became in ("repaired", "too late")]
    per_flow = Counter(row["intervention"] for row in found.reservations)
    yes = {
        f"{found.sent:,} readings were sent and {found.judged:,} judged": found.sent
        == found.judged,
        "not every reading has one verdict": all(
            len(one.verdicts) == len(one.ticks) for one in found.machines
        ),
        f"{found.repeated} readings came to an agent twice": not found.repeated,
        f"{found.dead} messages or events were given up": not found.dead,
        "interventions are not those that agents opened": sorted(found.flow_ids) == sorted(opened),
        "an intervention was opened twice": len(set(opened)) == len(opened),
        "an intervention is still open": all(one.became != "open" for one in found.interventions),
        f"{len(held)} reservations are neither used nor taken back": not held,
        "an intervention reserved twice": all(count == 1 for count in per_flow.values()),
        f"{len(used)} reservations were used for {len(stopped)} stops": len(used) == len(stopped),
        f"only {len(found.kills)} of {found.kills_wanted} processes were killed": len(found.kills)
        == found.kills_wanted,
    }
    return [text for text, holds in yes.items() if not holds]


def _became(row: Mapping[str, Any] | None, said: tuple[bool, str] | None, stop: Any) -> Became:
    if row is None or row["status"] not in ("finished", "failed"):
        return "open"
    if row["status"] == "finished":
        return "repaired" if stop is not None and stop.done else "too late"
    return "unanswered" if said is None else "refused"


def _caught(machines: Sequence[MachineTold], interventions: Sequence[Intervention]) -> list[Caught]:
    found = []
    for told in machines:
        for wear in told.life.wears:
            mine = [
                one
                for one in interventions
                if one.machine == told.plan.machine and wear.begin <= one.tick <= wear.end
            ]
            stops = [one.stopped_tick for one in mine if one.stopped_tick is not None]
            lead = wear.fails - stops[0] if stops and wear.how == "repaired" else None
            opened = mine[0].tick if mine else None
            found.append(Caught(told.plan.machine, wear, opened, lead))
    return found


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
