"""The machines, tick by tick: who runs, who stands still, and who is about to break. Pure.

All of this is made up but the readings. A plan says when each machine begins to wear out; from then
on more and more of its readings are anomalous ones, until it breaks, unless it is stopped and
repaired before. Now and then a machine that is well sends one anomalous reading, a short burst of
them, or a reading in which a sensor is missing. The same plan is lived through with aios, and twice
without.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

TICK_MIN = 10.0
"""Minutes of a machine's time between two readings."""
TICKS_AN_HOUR = 60.0 / TICK_MIN
BREAKDOWN_TICKS = 96
"""A machine that broke stands still for 16 hours."""
PLANNED_TICKS = 18
"""A planned stop takes 3 hours."""
ROUTINE_TICKS = 144
"""The fixed schedule stops each machine once in 24 hours."""
WEAR_TICKS = (55, 85)
"""From the first sign to the breakdown: 9 to 14 hours."""
SHARES = (0.25, 0.95)
"""Which part of the readings is anomalous when wear begins, and when the machine breaks."""
OUTLIERS = 0.01
BURST_TICKS = 8
BURST_SHARE = 0.9
MISSING = 0.004

State = Literal["running", "stopped", "broken"]


@dataclass(frozen=True)
class Fault:
    """Wear that begins at a tick, and breaks the machine `ticks` later."""

    begin: int
    ticks: int


@dataclass(frozen=True)
class Plan:
    """What is to befall one machine, if nobody intervenes."""

    machine: str
    faults: tuple[Fault, ...] = ()
    bursts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Span:
    """Ticks from `begin` until before `end`."""

    kind: Literal["stopped", "broken"]
    begin: int
    end: int


@dataclass(frozen=True)
class Wear:
    """How one fault went: `repaired`, `broken`, or still `open` at the end. `fails` is the tick at
    which it breaks the machine."""

    begin: int
    fails: int
    end: int
    how: Literal["repaired", "broken", "open"]


def make_plans(machines: int, ticks: int, seed: int) -> list[Plan]:
    """What befalls machines within so many ticks. Faults of one are far enough apart to be told
    from each other, breakdown and all; every fourth machine stays well, and those that do have
    most of the bursts."""
    chance = random.Random(f"plan-{seed}")
    plans = []
    for number in range(machines):
        faults, at = [], chance.randint(20, max(21, ticks // 3))
        while number % 4 != 3:
            length = chance.randint(*WEAR_TICKS)
            if at + length + 5 > ticks:
                break
            faults.append(Fault(at, length))
            at += length + BREAKDOWN_TICKS + chance.randint(30, 120)
        bursts = []
        if number % 4 == 3 or chance.random() < 0.3:
            bursts = [chance.randint(15, max(16, ticks - 30))]
        bursts = [one for one in bursts if all(not _near(one, fault) for fault in faults)]
        plans.append(Plan(f"m-{number + 1:02d}", tuple(faults), tuple(bursts)))
    return plans


def _near(tick: int, fault: Fault) -> bool:
    return fault.begin - 25 < tick < fault.begin + fault.ticks + BREAKDOWN_TICKS + 25


@dataclass
class Life:
    """One machine's life, tick by tick: `state_at_next` begins a tick and says what it does."""

    plan: Plan
    now: int = -1
    state: State = "running"
    spans: list[Span] = field(default_factory=list)
    wears: list[Wear] = field(default_factory=list)
    _next_fault: int = 0
    _wear: tuple[int, int] | None = None
    _since: int = 0

    def tick(self) -> State:
        """Let a tick pass; what the machine does in it."""
        self.now += 1
        if self.state == "broken" and self.now >= self._since + BREAKDOWN_TICKS:
            self._run_again()
        if self.state == "running":
            self._wear_on()
        return self.state

    @property
    def worn(self) -> float | None:
        """How far the wear has come, 0 to 1; None where there is none."""
        if self._wear is None:
            return None
        begin, fails = self._wear
        return (self.now - begin) / (fails - begin)

    def stop(self) -> bool:
        """Stop it, from the next tick on; False where it does not run."""
        if self.state != "running":
            return False
        self.state, self._since = "stopped", self.now + 1
        return True

    def go_on(self, repaired: bool) -> bool:
        """Let it run again; False where it was not stopped."""
        if self.state != "stopped":
            return False
        if repaired:
            self._end_wear("repaired")
        self._run_again()
        return True

    def finish(self, ticks: int) -> None:
        """Nothing happens after `ticks`; what goes on then ends there."""
        if self.state != "running":
            self._close(min(self._since, ticks), ticks)
            self.state = "running"
        self._end_wear("open", ticks)

    def _run_again(self) -> None:
        self._close(self._since, max(self._since, self.now))
        self.state = "running"

    def _close(self, begin: int, end: int) -> None:
        assert self.state != "running"
        if end > begin:
            self.spans.append(Span(self.state, begin, end))

    def _wear_on(self) -> None:
        faults = self.plan.faults
        if self._wear is None and self._next_fault < len(faults):
            fault = faults[self._next_fault]
            if self.now >= fault.begin:
                self._wear = (self.now, self.now + fault.ticks)
                self._next_fault += 1
        if self._wear is not None and self.now >= self._wear[1]:
            self._end_wear("broken")
            self.state, self._since = "broken", self.now

    def _end_wear(self, how: Literal["repaired", "broken", "open"], end: int | None = None) -> None:
        if self._wear is not None:
            begin, fails = self._wear
            self.wears.append(Wear(begin, fails, self.now if end is None else end, how))
            self._wear = None


@dataclass(frozen=True)
class Kind:
    """What a reading is like: of the file's anomalous ones or not, and which sensor is missing."""

    anomalous: bool
    missing: int | None = None


def kind_of(life: Life, seed: int) -> Kind:
    """What a running machine's reading is like at this tick: by chance, the same for each seed,
    machine and tick, whatever happened before."""
    chance = random.Random(f"{seed}-{life.plan.machine}-{life.now}")
    share, worn = OUTLIERS, life.worn
    if any(begin <= life.now < begin + BURST_TICKS for begin in life.plan.bursts):
        share = BURST_SHARE
    if worn is not None:
        share = SHARES[0] + (SHARES[1] - SHARES[0]) * worn
    missing = chance.randrange(9) if chance.random() < MISSING else None
    return Kind(chance.random() < share, missing)


Policy = Callable[[Life], bool]
"""Whether a machine that runs is to be stopped for a planned stop now."""


def lived(plan: Plan, ticks: int, policy: Policy) -> Life:
    """One machine's life where a policy alone decides about stops, each of which repairs it."""
    life, until = Life(plan), None
    for _ in range(ticks):
        state = life.tick()
        if state == "stopped" and until is not None and life.now >= until:
            life.go_on(repaired=True)
            until = None
        elif state == "running" and policy(life) and life.stop():
            until = life.now + 1 + PLANNED_TICKS
    life.finish(ticks)
    return life


def never(life: Life) -> bool:
    """Run to failure."""
    return False


def routine(life: Life) -> bool:
    """A stop a day, the machines one after the other."""
    number = int(life.plan.machine.rpartition("-")[2])
    return (life.now + 11 * number) % ROUTINE_TICKS == ROUTINE_TICKS - 1
