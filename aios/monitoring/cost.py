"""Where the money went: what nodes cost, divided over what used them. Pure arithmetic.

The model is OpenCost's (https://opencost.io/docs/specification): a cluster costs what its nodes
cost, and that is divided over workloads by the resources that they took, with what nobody took
as idle. Here a workload takes the CPU seconds that it used and the GPUs that it reserved;
OpenCost takes the larger of requested and used, but requests here are nominal (a replica asks for
0.1 core) and would say nothing. Memory is not divided: replicas of one runtime differ little in it.

For each node and interval `sum of parts == price x time` to rounding, whatever was reported: what
is more than the node has is held back for the next interval, and idle is what is left.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aios.records.cost import Owner, ProcessUsage, Used

HOUR_S = 3600.0
OVERHEAD, IDLE = Owner("overhead"), Owner("idle")


Usage = dict[Owner, Used]


@dataclass(frozen=True)
class NodeTime:
    """A node over an interval. `hour_price` is None where nobody gave a price; `busy_s` are the
    CPU seconds of all its processes, None where nobody told."""

    seconds: float
    cores: float
    gpus: float = 0.0
    hour_price: float | None = None
    gpu_share: float = 0.0
    busy_s: float | None = None

    @property
    def cost(self) -> float:
        """What it cost: price x time."""
        return (self.hour_price or 0.0) * self.seconds / HOUR_S


def grown(now: ProcessUsage, before: ProcessUsage | None) -> Usage:
    """What a process has used since it told before, by owner.

    An endpoint's replica works for every arm: it decodes, validates, answers and records for
    each call, whoever's model is asked. So its CPU time is divided by calls. (Not by service
    time: that of a canary passes in another process, which is counted for itself.) Without
    calls it is its stable version's, which it holds in memory. In the same way a worker's time
    is divided by the steps of flows, and a host's by the messages of agents.
    """
    if before is not None and now.cpu_s < before.cpu_s:
        return {}  # it was overtaken by a later one
    core_s = now.cpu_s - (before.cpu_s if before else 0.0)
    gpu_s = max(0.0, now.gpu_s - (before.gpu_s if before else 0.0))
    known = before.calls if before else {}
    calls = {arm: max(0, count - known.get(arm, 0)) for arm, count in now.calls.items()}
    owner = Owner(now.kind, now.endpoint, now.model, now.version, now.arm, now.run)
    every = sum(calls.values())
    if not every:
        return {owner: Used(core_s, gpu_s)}
    found: Usage = {}
    for name, count in calls.items():
        if count:
            what, _, version = name.partition(":")
            share = count / every
            served = owner._replace(version=int(version))
            if owner.kind == "endpoint":
                served = served._replace(arm=what)
            else:
                served = served._replace(model=what)
            found[served] = Used(core_s * share, gpu_s * share, count)
    return found


def divided(node: NodeTime, used: Mapping[Owner, Used]) -> tuple[Usage, Usage]:
    """A node's cost divided over who used it, and what is held back for the next interval.

    What was used beyond what the node has (reports come a few seconds late, so an interval may
    hold more of them than its share) is held back, up to the same again.
    """
    has_core_s, has_gpu_s = node.cores * node.seconds, node.gpus * node.seconds
    of_gpus = node.cost * node.gpu_share if has_gpu_s > 0 else 0.0
    of_cores = node.cost - of_gpus
    core_fraction = _fraction(sum(one.core_s for one in used.values()), has_core_s)
    gpu_fraction = _fraction(sum(one.gpu_s for one in used.values()), has_gpu_s)
    found: Usage = {}
    for owner, one in used.items():
        core_s, gpu_s = one.core_s * core_fraction, one.gpu_s * gpu_fraction
        cost = of_cores * _part(core_s, has_core_s) + of_gpus * _part(gpu_s, has_gpu_s)
        found[owner] = Used(core_s, gpu_s, one.calls, cost)
    taken = total(found.values())
    over_s = max(0.0, min((node.busy_s or 0.0), has_core_s) - taken.core_s)
    found[OVERHEAD] = Used(over_s, cost=of_cores * _part(over_s, has_core_s))
    rest_s = max(0.0, has_core_s - taken.core_s - over_s)
    rest_cost = max(0.0, node.cost - taken.cost - found[OVERHEAD].cost)
    found[IDLE] = Used(rest_s, max(0.0, has_gpu_s - taken.gpu_s), cost=rest_cost)
    return found, _held_back(used, core_fraction, gpu_fraction, has_core_s, has_gpu_s)


def _held_back(
    used: Mapping[Owner, Used],
    core_fraction: float,
    gpu_fraction: float,
    has_core_s: float,
    has_gpu_s: float,
) -> Usage:
    held = {
        owner: Used(one.core_s * (1 - core_fraction), one.gpu_s * (1 - gpu_fraction))
        for owner, one in used.items()
    }
    over = total(held.values())
    cores, gpus = _fraction(over.core_s, has_core_s), _fraction(over.gpu_s, has_gpu_s)
    cut = {owner: Used(one.core_s * cores, one.gpu_s * gpus) for owner, one in held.items()}
    return {owner: one for owner, one in cut.items() if one.core_s > 0 or one.gpu_s > 0}


def total(parts: Iterable[Used]) -> Used:
    """All of them together."""
    found = Used()
    for part in parts:
        found += part
    return found


def merged(into: Usage, more: Mapping[Owner, Used]) -> None:
    """Add what was used to what is known, in place."""
    for owner, used in more.items():
        into[owner] = into.get(owner, Used()) + used


def by_hour(start_s: float, end_s: float) -> list[tuple[float, float]]:
    """The hours (their starts, Unix seconds) that an interval touches, with its share in each.

    >>> by_hour(3590.0, 3630.0)
    [(0.0, 0.25), (3600.0, 0.75)]
    """
    if end_s <= start_s:
        return [(start_s - start_s % HOUR_S, 1.0)]
    found, at_s = [], start_s
    while at_s < end_s:
        hour_s = at_s - at_s % HOUR_S
        until_s = min(end_s, hour_s + HOUR_S)
        found.append((hour_s, (until_s - at_s) / (end_s - start_s)))
        at_s = until_s
    return found


def _fraction(wanted: float, there: float) -> float:
    """Which part of what is wanted there is."""
    return 1.0 if wanted <= there else there / wanted


def _part(taken: float, there: float) -> float:
    return taken / there if there > 0 else 0.0
