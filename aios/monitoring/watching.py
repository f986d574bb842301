"""From what was found to what is done: alarms, their end, and at most one retrain. Pure.

An alarm is raised when its condition holds and resolved when it is clear again, so that a score
which dances around the limit rings once. A retrain is started by any alarm, or by the schedule,
unless one runs, the last was less than the cooldown ago, or the budget is spent; then the alarm
stays and the retrain follows when it may.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aios.clock import CRON, cron_times, is_cron
from aios.errors import UsageError
from aios.records.watching import (
    Alarm,
    Block,
    Condition,
    Finding,
    RetrainBudget,
    RowComparison,
    RowQuestion,
    WatchSpec,
    WatchState,
)

MOST_BLOCKS = 100
"""As many windows as a condition may ask for."""
MOST_SCORES = 200
"""Kept of comparisons of rows, for charts."""
RETRY_S = 60.0
"""The pause after a retrain could not be started."""
LOGGED_S = 10.0
"""How long after its end a window's rows are in the prediction log, which is written every 5 s."""


@dataclass(frozen=True)
class Raised:
    """Tell people of a new alarm."""

    alarm: Alarm


@dataclass(frozen=True)
class Resolved:
    """Tell people that an alarm is over."""

    alarm: Alarm
    reason: str


@dataclass(frozen=True)
class StartRetrain:
    """Start the watch's run. `number` counts them, so that a repeat starts it once."""

    number: int
    finding: Finding


Told = Raised | Resolved


@dataclass(frozen=True)
class Spent:
    """What retraining has used up within the budget's time."""

    retrains: int
    cpu_hours: float


def began(state: WatchState, version: int, now_s: float) -> tuple[WatchState, list[Told]]:
    """Watch another version from now on. What was found about the one before is over; the number
    of looks is kept, since all of them share one error probability."""
    reason = f"version {version} serves now"
    actions: list[Told] = [Resolved(alarm, reason) for alarm in state.alarms]
    update = {
        "version": version,
        "since_s": now_s,
        "open_s": now_s,
        "blocks": (),
        "rows_end_s": now_s,
        "row_scores": (),
        "findings": (),
        "alarms": (),
        "held_back": None,
    }
    return state.model_copy(update=update), actions


def set_back(state: WatchState, now_s: float) -> WatchState:
    """Forget the times that are yet to come: the clock was set back.

    Windows that the new time brings are looked at as they come, those of a time that comes twice
    twice; a retrain counts as started now, so that the cooldown holds for its length and not
    until the old time is there again.
    """
    latest_s = max(state.since_s, state.open_s, state.rows_end_s, *state.triggers, 0.0)
    if latest_s <= now_s:
        return state
    update = {
        "since_s": min(state.since_s, now_s),
        "open_s": min(state.open_s, now_s),
        "rows_end_s": min(state.rows_end_s, now_s),
        "blocks": tuple(block for block in state.blocks if block.end_s <= now_s),
        "triggers": tuple(min(at_s, now_s) for at_s in state.triggers),
    }
    return state.model_copy(update=update)


def stopped(state: WatchState, reason: str) -> tuple[WatchState, list[Told]]:
    """There is nothing to watch: what was found is over."""
    actions: list[Told] = [Resolved(alarm, reason) for alarm in state.alarms]
    return state.model_copy(update={"findings": (), "alarms": (), "held_back": None}), actions


def joined(windows: Sequence[Block], open_s: float, min_rows: int) -> tuple[list[Block], float]:
    """Windows as blocks of at least `min_rows` rows, and where the next block begins.

    Args:
        windows: those that begin at `open_s` or later, in order of time.
    """
    blocks: list[Block] = []
    waiting: list[Block] = []
    for window in windows:
        waiting.append(window)
        rows = sum(one.rows for one in waiting)
        if rows >= min_rows:
            blocks.append(Block(start_s=waiting[0].start_s, end_s=window.end_s, rows=rows))
            waiting, open_s = [], window.end_s
    return blocks, open_s


def blocks_kept(blocks: Sequence[Block], most: int, now_s: float) -> tuple[Block, ...]:
    """The blocks that are still needed: the newest `most` whose rows are in the log, and those that
    came after them."""
    logged = [block for block in blocks if block.end_s + LOGGED_S <= now_s]
    return (*logged[-most:], *blocks[len(logged) :])[-MOST_BLOCKS:]


def rows_due(state: WatchState, conditions: Sequence[Condition], now_s: float) -> tuple[Block, ...]:
    """The newest blocks, as many as a condition wants, whose rows are to be compared now; none
    before they are in the log, and none a second time."""
    wanted = [one.windows for one in conditions]
    logged = [block for block in state.blocks if block.end_s + LOGGED_S <= now_s]
    if len(logged) < min(wanted) or logged[-1].end_s <= state.rows_end_s:
        return ()
    return tuple(logged[-max(wanted) :])


def rows_compared(state: WatchState, asked: RowQuestion, found: RowComparison) -> WatchState:
    """The rows of these blocks were compared; what told nothing is no look."""
    end_s, score = asked.blocks[-1].end_s, found.windows[-1] if found.windows else None
    scores = state.row_scores if score is None else (*state.row_scores, (end_s, score))
    update = {
        "row_looks": state.row_looks + (found.why is None),
        "rows_end_s": end_s,
        "row_scores": scores[-MOST_SCORES:],
    }
    return state.model_copy(update=update)


def judged(
    state: WatchState, findings: Sequence[Finding], now_s: float
) -> tuple[WatchState, list[Told]]:
    """Take new findings, one for each condition that was looked at again."""
    actions: list[Told] = []
    alarms = {alarm.condition: alarm for alarm in state.alarms}
    raised = state.alarms_raised
    for finding in findings:
        known = alarms.get(finding.condition)
        if finding.state == "holds" and known is None:
            raised += 1
            alarm = Alarm(
                id=f"alarm-{raised}", condition=finding.condition, finding=finding, since_s=now_s
            )
            alarms[finding.condition] = alarm
            actions.append(Raised(alarm))
        elif finding.state == "clear" and known is not None:
            actions.append(Resolved(known, finding.reason))
            del alarms[finding.condition]
    latest = {finding.condition: finding for finding in (*state.findings, *findings)}
    update = {
        "findings": tuple(latest.values()),
        "alarms": tuple(alarms.values()),
        "alarms_raised": raised,
    }
    return state.model_copy(update=update), actions


def looks(state: WatchState) -> int:
    """How often anything was judged."""
    return state.looks + state.row_looks + state.label_looks


def not_started(before: WatchState, reason: str, now_s: float) -> WatchState:
    """The retrain that `due` asked for could not be started: it counts for nothing, and is asked
    for again after a pause.

    Args:
        before: the state that `due` was given.
    """
    held_back = f"the retrain could not be started: {reason}"
    return before.model_copy(update={"held_back": held_back, "retry_s": now_s + RETRY_S})


def due(
    spec: WatchSpec, state: WatchState, spent: Spent, running: str | None, now_s: float
) -> tuple[WatchState, list[StartRetrain]]:
    """Start the retrain that an alarm or the schedule asks for, if it may be started now.

    Args:
        running: what goes on meanwhile, as `run loan-run-1`; None if nothing does.
    """
    if spec.then is None:
        return state, []
    # The data of an alarm about which nothing more was judged are those of the retrain before.
    stale = state.retrained_look is not None and looks(state) <= state.retrained_look
    finding = state.alarms[0].finding if state.alarms and not stale else None
    scheduled_s = state.scheduled_s
    if spec.schedule is not None:
        next_s = next_time(spec.schedule, now_s)
        if scheduled_s is None or scheduled_s > next_s:  # none yet, or the clock was set back
            scheduled_s = next_s
        elif now_s >= scheduled_s:
            finding = finding or Finding(
                condition=f"schedule {spec.schedule}",
                state="holds",
                reason=f"the schedule {spec.schedule!r} was due",
            )
    if finding is None:
        told = "nothing was judged since the last retrain" if state.alarms else None
        update = {"held_back": told, "retry_s": None, "scheduled_s": scheduled_s}
        return state.model_copy(update=update), []
    held_back = _held_back(spec, state, spent, running, now_s)
    if held_back is not None:
        return state.model_copy(update={"held_back": held_back, "scheduled_s": scheduled_s}), []
    if spec.schedule is not None:
        scheduled_s = next_time(spec.schedule, now_s)
    kept = tuple(at_s for at_s in state.triggers if at_s > now_s - spec.budget.per_s)
    number = state.triggered + 1
    started: dict[str, Any] = {
        "held_back": None,
        "retry_s": None,
        "scheduled_s": scheduled_s,
        "triggers": (*kept, now_s),
        "triggered": number,
        "retrained_look": looks(state),
    }
    return state.model_copy(update=started), [StartRetrain(number, finding)]


def _held_back(
    spec: WatchSpec, state: WatchState, spent: Spent, running: str | None, now_s: float
) -> str | None:
    if running is not None:
        return f"{running} is going on, and there is one at a time"
    # A retry later than its pause was set by a clock that was ahead.
    if state.retry_s is not None and now_s < state.retry_s <= now_s + RETRY_S:
        return state.held_back
    last_s = max(state.triggers, default=None)
    if last_s is not None and now_s < last_s + spec.cooldown_s:
        left_s = last_s + spec.cooldown_s - now_s
        return (
            f"the last retrain was started less than {spec.cooldown_s:g} s ago; {left_s:.0f} s left"
        )
    return _over(spec.budget, spent)


def _over(budget: RetrainBudget, spent: Spent) -> str | None:
    within = f"in {budget.per_s:g} s"
    if spent.retrains >= budget.retrains:
        return f"the budget is spent: {spent.retrains} of {budget.retrains} retrains {within}"
    if spent.cpu_hours >= budget.cpu_hours:
        used = f"{spent.cpu_hours:.2g} of {budget.cpu_hours:g} CPU hours"
        return f"the budget is spent: {used} {within}"
    return None


def next_time(schedule: str, now_s: float) -> float:
    """The next moment of a cron line after `now_s`, in UTC, as Unix seconds.

    Raises:
        UsageError: it is not a cron line.
    """
    if not is_cron(schedule):
        raise UsageError(f"schedule={schedule!r:.80} is no cron line: {CRON}; in UTC")
    return float(cron_times(schedule, now_s).get_next(float))
