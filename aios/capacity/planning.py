"""How many replicas and nodes a rate takes, and what they cost. Arithmetic on a measurement."""

import math
from dataclasses import dataclass

from aios.capacity.confidence import Confidence, confidence, is_checked
from aios.capacity.fitting import Fitted, expected_p99_s, fitted, rate_of_one_replica
from aios.capacity.measurement import Measurement
from aios.capacity.queueing import servers_needed
from aios.errors import UsageError
from aios.presentation import ALARM, Rows, Shown, duration
from aios.records import Autoscale

HOURS_PER_MONTH = 730.0
"""A year's hours over twelve, as clouds bill them."""
SECONDS_PER_HOUR = 3600.0
MOST_RATE = 1e7
LONGEST_S = 3600.0
"""The largest budget: the load generator's histograms end there."""
MOST_PER_NODE = 1000
"""Replicas: each is a process of 100 MB and more."""
MARGIN = 1.15
"""HAProxy hands a request to the replica with fewest, and its p99 is up to 13 % above that of one
line for all (`benchmarks/capacity.py`): planned is for one so far below the budget."""
MOST_BUSY = 0.85
"""Share of the replicas' time, however many there are: above, a little more traffic is too much."""


@dataclass(frozen=True)
class Node:
    """A machine to be bought or rented.

    Args:
        replicas: how many fit on it. Without one: its cores but one, which HAProxy, Ray and the
            writing of logs take; a replica keeps at most one core busy. With GPUs: as many as
            these take.
        cores: its cores; without them those of the machine that was measured.
        gpus: its GPUs, on which the replicas run; 0 for a node without.
        replicas_per_gpu: how many share one of them. Measure with as many on one GPU: they slow
            each other down, which nothing else tells.
        hour_price: what it costs by the hour, all of it; None: no cost is told.

    Raises:
        UsageError: no replica, more than a machine has room for, GPUs that nobody said the node
            has, or a price that one cannot pay.
    """

    replicas: int | None = None
    cores: int | None = None
    gpus: int = 0
    replicas_per_gpu: int | None = None
    hour_price: float | None = None
    currency: str = ""

    def __post_init__(self) -> None:
        if self.hour_price is not None and not 0 <= self.hour_price < math.inf:
            raise UsageError(f"a node costs 0 or more by the hour, not {self.hour_price:g}")
        if self.gpus < 0 or (self.cores is not None and self.cores < 1):
            raise UsageError(f"no node has {self.cores} cores and {self.gpus} GPUs")
        if self.replicas_per_gpu is not None and not self.gpus:
            raise UsageError("replicas on each GPU, but no GPU: say how many GPUs a node has")
        if self.gpus and self.replicas is not None:
            raise UsageError("on a node with GPUs replicas are counted by GPU, not by node")
        found = self._said
        if found is not None and not 1 <= found <= MOST_PER_NODE:
            raise UsageError(f"a node holds 1 to {MOST_PER_NODE:,} replicas, not {found:,}")

    @property
    def _said(self) -> int | None:
        each = 1 if self.replicas_per_gpu is None else self.replicas_per_gpu
        return self.gpus * each if self.gpus else self.replicas

    def holds(self, measured: Measurement) -> int:
        """How many replicas one takes."""
        found = self._said
        return max(1, self._cores(measured) - 1) if found is None else found

    def doubts(self, measured: Measurement) -> "list[str]":
        """What speaks against so many replicas on one machine."""
        holds, cores, each = self.holds(measured), self._cores(measured), self.replicas_per_gpu or 1
        if self.gpus and not measured.machine.get("gpus"):
            return [
                "no GPU was measured: the machine that measured has none, so that nothing tells "
                "what a replica bears on one; measure on a node with GPUs"
            ]
        if self.gpus and each > measured.replicas:
            return [
                f"replicas that share a GPU were not measured: {each} on each were asked for and "
                f"{measured.replicas} measured; deploy {each} on one GPU and measure again"
            ]
        if not self.gpus and holds > cores:
            return [
                f"replicas share cores: {holds} on a node with {cores}, and a busy one needs a "
                "core for itself"
            ]
        return []

    def told(self, holds: int) -> str:
        """What one is, in words."""
        if not self.gpus:
            return f"{_counted(holds, 'replica')} at most"
        return f"{_counted(self.gpus, 'GPU')} with {_counted(holds // self.gpus, 'replica')} each"

    def _cores(self, measured: Measurement) -> int:
        return int(measured.machine.get("cores") or 1) if self.cores is None else self.cores


@dataclass(frozen=True)
class Demand:
    """What is asked for.

    Args:
        rate_per_s: requests at the busiest time.
        p99_s: what 99 of 100 answers must not exceed.
        spare_nodes: how many nodes may be lost at that time and the rest still does it.
        ingresses: how many HAProxies take the traffic in. One knows of all requests and hands each
            to the replica with fewest. Several do not know of each other's: then each replica is
            planned as with a line of its own, which is on the safe side.

    Raises:
        UsageError: a rate or budget that is none.
    """

    rate_per_s: float
    p99_s: float
    spare_nodes: int = 1
    ingresses: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_s <= MOST_RATE:
            nothing = ": nothing needs no machine" if self.rate_per_s == 0 else ""
            raise UsageError(
                f"the rate is above 0 and at most {MOST_RATE:,.0f} requests/s, not "
                f"{self.rate_per_s:g}{nothing}"
            )
        if not 0 < self.p99_s <= LONGEST_S:
            raise UsageError(
                "the p99 is a time above 0 and at most an hour (3,600,000 ms), not "
                f"{1000 * self.p99_s:g} ms"
            )
        if not 0 <= self.spare_nodes <= 100:
            raise UsageError(f"0 to 100 nodes may be lost, not {self.spare_nodes}")
        if self.ingresses < 1:
            raise UsageError(f"traffic comes in at 1 HAProxy or more, not {self.ingresses}")


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """The answer.

    Attributes:
        replicas: that keep the budget.
        replicas_unbalanced: that keep it if each has a line of its own, as with many HAProxies. It
            is what is planned where the formula for one line does not agree with what was seen.
        running: replicas that run, so that after the loss of the spare nodes `replicas` are left.
        nodes, nodes_without_spare: machines.
        utilisation: share of the running replicas' time that is used.
        expected_p99_s, after_loss_p99_s: by the formula, all nodes there and the spare ones lost.
        month_cost, million_cost: of all nodes, at this rate all the time; None without a price.
        autoscale, max_queued: settings of the endpoint. `autoscale.ongoing_requests` is Ray
            Serve's `target_ongoing_requests`: how many requests a replica has open, by Little's
            law, at the largest load that keeps the budget.
        confidence: how far to trust it, and why.
    """

    demand: Demand
    node: Node
    measured: Measurement
    replica_rate_per_s: float
    replicas: int
    replicas_unbalanced: int
    running: int
    replicas_per_node: int
    nodes: int
    nodes_without_spare: int
    utilisation: float
    expected_p99_s: float
    after_loss_p99_s: float
    month_cost: float | None
    million_cost: float | None
    autoscale: Autoscale
    max_queued: int
    confidence: Confidence

    def _shown(self) -> tuple[str, tuple[str, str], Rows]:
        demand, measured = self.demand, self.measured
        title = (
            f"{measured.endpoint} ({measured.version}) at {demand.rate_per_s:,.6g} requests/s with "
            f"a p99 of {duration(demand.p99_s)}: {_counted(self.nodes, 'node')}"
        )
        title += "".join(f"\n{ALARM}{one}" for one in self.confidence.doubts)
        return title, ("what", "answer"), self._rows()

    def _rows(self) -> Rows:
        spare = self.demand.spare_nodes
        scale = self.autoscale
        currency = f" {self.node.currency}".rstrip()
        rows: list[tuple[str, str]] = [
            ("one replica bears", self._borne()),
            (
                "replicas needed",
                f"{self.replicas}"
                + ("" if self.replicas == self.replicas_unbalanced else self._unbalanced()),
            ),
            ("nodes", f"{self.nodes}, of {self.node.told(self.replicas_per_node)}"),
            (
                "of them spare",
                f"{spare}: when {'it is' if spare == 1 else 'they are'} lost, the p99 is "
                f"{duration(self.after_loss_p99_s)} on the other {self.nodes_without_spare}"
                if spare
                else "none: the loss of one node breaks the budget",
            ),
            (
                "replicas running",
                f"{self.running}, {self.utilisation:.0%} busy, p99 {duration(self.expected_p99_s)}",
            ),
        ]
        if self.month_cost is not None and self.million_cost is not None:
            rows += [
                ("cost by the month", f"{self.month_cost:,.2f}{currency}"),
                (
                    "cost of 1,000,000 requests",
                    f"{self.million_cost:,.4f}{currency}, if they come at this rate all the time",
                ),
            ]
        else:
            rows.append(("cost", "not told: no price of a node was given"))
        rows += [
            ("settings of the endpoint", f"replicas={self.running}, max_queued={self.max_queued}"),
            (
                "or as traffic comes",
                f"replicas=aios.Autoscale({scale.min_replicas}, {scale.max_replicas}, "
                f"ongoing_requests={scale.ongoing_requests:g}): Serve then counts every request, "
                "which costs some; measure it so",
            ),
            ("confidence", f"{self.confidence.level}: {'; '.join(self.confidence.because)}"),
        ]
        return rows

    def _borne(self) -> str:
        """What one replica bears, and what that was read off."""
        kept, broken = self.measured.bounds(self.demand.p99_s)
        told = f"{self.replica_rate_per_s:,.1f} requests/s"
        least = (kept or 0.0) / self.measured.replicas
        if self.replica_rate_per_s <= least:
            return told
        tried = f"{least:,.1f} was tried and kept the p99"
        if broken is not None:
            tried += f", {broken / self.measured.replicas:,.1f} did not"
        return f"{told} by the formula; {tried}"

    def _unbalanced(self) -> str:
        return f" ({self.replicas_unbalanced} if several HAProxies take the traffic in)"


def plan(measured: Measurement, demand: Demand, node: Node, fit: Fitted | None = None) -> Plan:
    """Size the machines for a demand.

    Args:
        fit: `fitted(measured)`, for whoever asks for many demands.

    Raises:
        UsageError: no number of machines keeps this p99; says what one answer takes.
    """
    holds = node.holds(measured)
    fit = fitted(measured) if fit is None else fit
    one_per_s = rate_of_one_replica(measured, fit, demand.p99_s)
    if not one_per_s:
        judged = confidence(measured, fit, demand.rate_per_s, demand.p99_s)
        raise UsageError(_unreachable(measured, demand, judged))
    unbalanced = max(1, math.ceil(demand.rate_per_s / one_per_s - 1e-9))
    together = demand.ingresses == 1 and is_checked(fit)
    replicas = min(unbalanced, _balanced(fit, demand)) if together else unbalanced
    nodes_without_spare = math.ceil(replicas / holds)
    nodes = nodes_without_spare + demand.spare_nodes
    on_each = math.ceil(replicas / nodes_without_spare)
    running = nodes * on_each if demand.spare_nodes else replicas
    left = on_each * nodes_without_spare if demand.spare_nodes else replicas
    hour_cost = None if node.hour_price is None else nodes * node.hour_price
    return Plan(
        demand=demand,
        node=node,
        measured=measured,
        replica_rate_per_s=one_per_s,
        replicas=replicas,
        replicas_unbalanced=unbalanced,
        running=running,
        replicas_per_node=holds,
        nodes=nodes,
        nodes_without_spare=nodes_without_spare,
        utilisation=demand.rate_per_s * fit.service_s / running,
        expected_p99_s=_expected(measured, fit, demand, running),
        after_loss_p99_s=_expected(measured, fit, demand, left),
        month_cost=None if hour_cost is None else hour_cost * HOURS_PER_MONTH,
        million_cost=None
        if hour_cost is None
        else hour_cost / (demand.rate_per_s * SECONDS_PER_HOUR) * 1e6,
        autoscale=_autoscale(measured, demand.p99_s, one_per_s, running, nodes),
        max_queued=_most_queued(fit, demand.p99_s),
        confidence=confidence(
            measured, fit, demand.rate_per_s, demand.p99_s, node.doubts(measured)
        ),
    )


def _balanced(fit: Fitted, demand: Demand) -> int:
    """The fewest replicas at one HAProxy."""
    needed = servers_needed(
        demand.rate_per_s,
        max(demand.p99_s / MARGIN, fit.times.quantile_s(0.99)),
        fit.times,
        service_s=fit.service_s,
        variability=fit.variability,
    )
    assert needed is not None, "one replica without load keeps it"
    return max(needed, math.ceil(demand.rate_per_s * fit.service_s / MOST_BUSY - 1e-9))


def _expected(measured: Measurement, fit: Fitted, demand: Demand, replicas: int) -> float:
    """The p99 with so many: in one line, or each in its own."""
    if demand.ingresses > 1:
        return expected_p99_s(measured, fit, demand.rate_per_s / replicas)
    return expected_p99_s(measured, fit, demand.rate_per_s, replicas)


def _autoscale(
    measured: Measurement, p99_s: float, one_per_s: float, running: int, nodes: int
) -> Autoscale:
    """Between a replica on each of two nodes and all that were planned, at the load of the plan.

    The mean time of an answer is that of the largest rate which was seen to keep the budget: a
    mean is measured well, and fitted p99s say little about it.
    """
    kept = [point for point in (measured.light, *measured.points) if point.within(p99_s)]
    nearest = max(kept, key=lambda point: point.rate_per_s)
    open_requests = one_per_s * nearest.mean_s
    least = min(2, nodes, running)
    return Autoscale(least, running, ongoing_requests=max(0.1, round(open_requests, 1)))


def _most_queued(fit: Fitted, p99_s: float) -> int:
    """Requests that one replica may have open: one more would be answered too late."""
    return max(1, math.floor((p99_s - fit.times.quantile_s(0.5)) / fit.service_s) + 1)


def _unreachable(measured: Measurement, demand: Demand, judged: Confidence) -> str:
    light_s = measured.light.p99_s
    takes = "fail" if light_s is None else f"take up to {duration(light_s)}"
    return (
        f"a p99 of {duration(demand.p99_s)} cannot be reached with any number of machines: without "
        f"load 99 of 100 answers of {measured.endpoint} {takes} here. A quicker model or machine, "
        "or a larger budget, would do" + "".join(f"; but {doubt}" for doubt in judged.doubts)
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
