"""One contestant under one closed loop for one window, and what that cost: shared by benchmarks."""

import time
from collections.abc import Callable, Sequence

from aios.capacity.load import Loop, Outcome, run_load
from benchmarks.figures import Round
from benchmarks.peers import Contestant
from benchmarks.workload import Workload

WARM_UP_S = 0.5
SETTLE_S = 15.0
STILL_S = 6.0
"""Longer than rows wait for the next write to the log."""
IDLE_S = 2.0


def one_round(
    workload: Workload,
    group: str,
    contestant: Contestant,
    connections: int,
    seconds: float,
    idle: dict[str, float],
) -> tuple[Round, Outcome]:
    """A round, and what the load generator saw in it.

    Args:
        idle: CPU seconds per second by role while nobody asks, taken off the wait for rows.

    Raises:
        RuntimeError: requests failed, or it is not what its name says any more.
    """
    before = rows(contestant)
    at_start: list[dict[str, float]] = []
    outcome = closed_loop(
        workload, contestant, connections, seconds, lambda: at_start.append(contestant.cpu_s())
    )
    ended_s = time.monotonic()
    settle(contestant, before + outcome.answered_in_all)
    waited_s = time.monotonic() - ended_s
    cpu_s = {
        role: max(used - at_start[0][role] - waited_s * idle[role], 0.0)
        for role, used in contestant.cpu_s().items()
    }
    if not contestant.check():
        raise RuntimeError(f"{contestant.name} is not what it should be any more")
    return _summed_up(group, contestant.name, connections, outcome, cpu_s), outcome


def closed_loop(
    workload: Workload,
    contestant: Contestant,
    connections: int,
    seconds: float,
    at_start: Callable[[], None] = lambda: None,
) -> Outcome:
    """As many requests as it answers.

    Raises:
        RuntimeError: a request failed, or its score was wrong.
    """
    outcome = run_load(
        contestant.target,
        contestant.bodies or workload.bodies,
        Loop(connections, seconds),
        warm_up_s=WARM_UP_S,
        expected=workload.expected,
        output=contestant.score_at,
        at_start=at_start,
    )
    if outcome.failed:
        raise RuntimeError(
            f"{contestant.name} failed {outcome.failed} requests: {outcome.failures}"
        )
    return outcome


def rows(contestant: Contestant) -> int:
    """In its prediction log; 0 if it keeps none."""
    return contestant.recorded() if contestant.recorded else 0


def settle(contestant: Contestant, rows: int | None) -> None:
    """Wait until the contestant has done what its requests left it to do.

    Args:
        rows: how many its prediction log must hold; None: until the log grows no more.

    Raises:
        RuntimeError: it does not hold so many after `SETTLE_S`.
    """
    if contestant.recorded is None:
        return
    if rows is None:
        settle_all([contestant])
        return
    give_up_s = time.monotonic() + SETTLE_S
    while (found := contestant.recorded()) != rows:
        if time.monotonic() > give_up_s:
            raise RuntimeError(
                f"{contestant.name} has {found} rows in its prediction log, expected {rows}"
            )
        time.sleep(0.1)


def settle_all(contestants: Sequence[Contestant]) -> None:
    """Wait until no prediction log of theirs grows any more, or for `SETTLE_S`."""
    logs = [one.recorded for one in contestants if one.recorded is not None]
    give_up_s = time.monotonic() + SETTLE_S
    still_s, before = time.monotonic() + STILL_S, [one() for one in logs]
    while logs and time.monotonic() < min(still_s, give_up_s):
        time.sleep(0.1)
        if (found := [one() for one in logs]) != before:
            still_s, before = time.monotonic() + STILL_S, found


def idle_cpu(contestants: Sequence[Contestant]) -> dict[str, dict[str, float]]:
    """CPU seconds per second by contestant and role while nobody asks anything."""
    before = {entry.name: entry.cpu_s() for entry in contestants}
    time.sleep(IDLE_S)
    return {
        entry.name: {
            role: (used - before[entry.name][role]) / IDLE_S for role, used in entry.cpu_s().items()
        }
        for entry in contestants
    }


def _summed_up(
    group: str, name: str, connections: int, outcome: Outcome, cpu_s: dict[str, float]
) -> Round:
    return Round(
        contestant=name,
        connections=connections,
        group=group,
        requests=outcome.good,
        failed=outcome.failed,
        window_s=outcome.window_s,
        p50_ms=1000 * outcome.quantile_s(0.50),
        p95_ms=1000 * outcome.quantile_s(0.95),
        p99_ms=1000 * outcome.quantile_s(0.99),
        cpu_s=cpu_s,
        canary_fraction=outcome.canary / outcome.good,
        client_cpu_fraction=outcome.cpu_fraction,
    )
