"""Meters the cluster: what its nodes cost from look to look, and who used them.

Driven from outside: processes tell what they used (`used`), and every few seconds somebody says
which nodes there are (`look`). A plain class; what is divided how is `monitoring.cost`'s.

Told twice, late, or to a kernel that was restarted, nothing counts twice: processes tell
cumulative numbers, and how far each was counted is saved in the transaction that adds the hours.
A kernel that comes back counts the time in between from there: the nodes ran, and so did the
processes. What is lost with a process is what it used since it last told; it becomes overhead.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aios.clock import Clock
from aios.errors import AiosError
from aios.monitoring.cost import HOUR_S, IDLE, OVERHEAD, NodeTime, Usage, by_hour, divided, grown
from aios.monitoring.cost import merged as add_up
from aios.records.cost import Billed, NodeSeen, Owner, Place, Prices, ProcessUsage, Used
from aios.registry.usage import UsageStore

LOOK_S = 10.0
SAVE_S = 60.0
ROLL_UP_S = 6 * HOUR_S
LONGEST_GAP_S = HOUR_S
"""A kernel that was away for longer leaves a gap in the bill: a clock that was put forward by a
year must not be paid for."""
FORGOTTEN_S = 24 * HOUR_S
"""A process that has been silent for so long is not expected to tell again."""
MOST_PROCESSES = 10_000

logger = logging.getLogger("aios.kernel")
Which = Callable[[str], tuple[str, str, int, str] | None]
"""Endpoint, model, version and arm of a challenger's Serve application."""


@dataclass
class _Node:
    """A node: as it was seen at the last look (None: not yet), and what was told since."""

    seen: NodeSeen | None = None
    cores: float = 0.0
    busy_s: float | None = None
    busy_counted_s: float | None = None
    ahead_s: float = 0.0
    """CPU seconds that were counted for owners before the node's own count had them."""
    pending: Usage = field(default_factory=dict)


@dataclass
class _Counted:
    """What is counted and not yet saved."""

    usage: dict[tuple[Place, Owner], Used] = field(default_factory=dict)
    bills: dict[Place, Billed] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch:
    sequence: int
    counted: _Counted
    progress: dict[str, Any]


class Metering:
    """What the cluster costs, and who used it. Threads may share it.

    Args:
        which: tells what a challenger's Serve application is; None if nobody knows it.
    """

    def __init__(self, store: UsageStore, prices: Prices, clock: Clock, which: Which) -> None:
        self._store = store
        self._prices = prices
        self._clock = clock
        self._which = which
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._nodes: dict[str, _Node] = {}
        self._processes: dict[str, ProcessUsage] = {}
        self._heard_s: dict[str, float] = {}
        self._counted = _Counted()
        self._unsaved: _Batch | None = None
        self._looked_s: float | None = None
        self._looked_at_s = 0.0
        self._saved_s = self._rolled_up_s = clock.monotonic_s()
        self._totals: dict[tuple[Owner, str], Used] = {}
        self._bill: dict[str, float] = {}
        self.lost_core_s = 0.0
        """Core-seconds of processes whose node was gone before it was counted."""
        self._sequence, progress = store.progress()
        if progress:
            self._restore(progress)

    def used(self, usage: ProcessUsage) -> None:
        """Take what a process tells."""
        if usage.app:
            found = self._which(usage.app)
            if found is None:
                return
            told = dict(zip(("endpoint", "model", "version", "arm"), found, strict=True))
            usage = usage.model_copy(update=told)
        with self._lock:
            before = self._processes.get(usage.id)
            if before is not None and usage.cpu_s < before.cpu_s:
                return
            node = self._nodes.setdefault(usage.node, _Node())
            add_up(node.pending, grown(usage, before))
            node.cores = usage.node_cores or node.cores
            # Several processes tell of one node; after a restart of it the count begins anew.
            node.busy_s = usage.node_busy_s
            self._processes[usage.id] = usage
            self._heard_s[usage.id] = self._clock.monotonic_s()

    def look(self, nodes: Sequence[NodeSeen]) -> None:
        """Count the time since the last look for the nodes that were there then and are now."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            elapsed_s = self._elapsed_s(now_s)
            there = {node.id: node for node in nodes}
            for gone in self._nodes.keys() - there.keys():
                pending = self._nodes.pop(gone).pending
                self.lost_core_s += sum(one.core_s for one in pending.values())
            for seen in nodes:
                node = self._nodes.setdefault(seen.id, _Node())
                if node.seen is not None and elapsed_s > 0:
                    self._count(node, seen, elapsed_s)
                node.seen = seen
            self._looked_s, self._looked_at_s = now_s, self._clock.now_s()
            self._forget(there, now_s)
            due = now_s - self._saved_s >= SAVE_S
        if due:
            self.save()

    def save(self) -> None:
        """Add what was counted to the store. What cannot be stored is kept, and tried again."""
        with self._saving:
            try:
                while batch := self._unsaved or self._taken():
                    self._unsaved = batch
                    counted = batch.counted
                    self._store.save(batch.sequence, counted.usage, counted.bills, batch.progress)
                    self._unsaved = None
                self._roll_up()
            except AiosError as error:
                logger.warning("what was metered is not stored yet: %s", error.message)

    def counted(self) -> tuple[dict[str, float], dict[tuple[Owner, str], Used]]:
        """Since this kernel began: the bill by currency, and who used what (whatever the run) in
        which currency."""
        with self._lock:
            return dict(self._bill), dict(self._totals)

    def most_gpus(self) -> float | None:
        """What the node with most GPUs has; None before any look."""
        with self._lock:
            seen = [node.seen.gpus for node in self._nodes.values() if node.seen is not None]
        return max(seen, default=None)

    # -- counting ---------------------------------------------------------------------

    def _elapsed_s(self, now_s: float) -> float:
        """Seconds since the last look, also where that was another kernel's."""
        if self._looked_s is not None:
            return now_s - self._looked_s
        if not self._looked_at_s:
            return 0.0
        away_s = max(0.0, self._clock.now_s() - self._looked_at_s)
        if away_s > LONGEST_GAP_S:
            logger.warning("no kernel ran for %.0f s; only %.0f are metered", away_s, LONGEST_GAP_S)
        return min(away_s, LONGEST_GAP_S)

    def _count(self, node: _Node, seen: NodeSeen, elapsed_s: float) -> None:
        price = self._prices.hour(seen.type)
        busy_s = _busy(node)
        time = NodeTime(
            seconds=elapsed_s,
            cores=node.cores or seen.cores,
            gpus=seen.gpus,
            hour_price=price,
            gpu_share=self._prices.gpu_share,
            busy_s=busy_s,
        )
        parts, node.pending = divided(time, node.pending)
        ours_s = sum(one.core_s for who, one in parts.items() if who not in (OVERHEAD, IDLE))
        ahead_s = 0.0 if busy_s is None else max(0.0, ours_s - busy_s)
        node.ahead_s = min(ahead_s, time.cores * elapsed_s)
        currency = self._prices.currency or "" if price is not None else ""
        billed = Billed(elapsed_s, time.cores * elapsed_s, seen.gpus * elapsed_s, time.cost)
        now_s = self._clock.now_s()
        for number, (hour_s, share) in enumerate(by_hour(now_s - elapsed_s, now_s)):
            place = Place(hour_s, HOUR_S, seen.type, currency)
            bills = self._counted.bills
            bills[place] = bills.get(place, Billed()) + _billed_share(billed, share)
            for owner, used in parts.items():
                key, some = (place, owner), _used_share(used, share, number == 0)
                known = self._counted.usage.get(key, Used())
                self._counted.usage[key] = known + some
        for owner, used in parts.items():
            bare = (owner._replace(run=""), currency)
            self._totals[bare] = self._totals.get(bare, Used()) + used
        self._bill[currency] = self._bill.get(currency, 0.0) + time.cost

    def _forget(self, there: Iterable[str], now_s: float) -> None:
        known = set(there)
        for name, one in list(self._processes.items()):
            silent_s = now_s - self._heard_s.setdefault(name, now_s)
            if one.node not in known or silent_s > FORGOTTEN_S:
                del self._processes[name], self._heard_s[name]
        while len(self._processes) > MOST_PROCESSES:
            oldest = min(self._heard_s, key=lambda name: self._heard_s[name])
            del self._processes[oldest], self._heard_s[oldest]

    # -- keeping ----------------------------------------------------------------------

    def _taken(self) -> _Batch | None:
        """What is counted, with how far that is; None if there is nothing."""
        with self._lock:
            if not self._counted.bills:
                return None
            counted, self._counted = self._counted, _Counted()
            self._sequence += 1
            self._saved_s = self._clock.monotonic_s()
            return _Batch(self._sequence, counted, self._progress())

    def _progress(self) -> dict[str, Any]:
        return {
            "at_s": self._looked_at_s,
            "nodes": [_node_json(node) for node in self._nodes.values() if node.seen],
            "processes": [one.model_dump(mode="json") for one in self._processes.values()],
        }

    def _restore(self, progress: dict[str, Any]) -> None:
        self._looked_at_s = progress["at_s"]
        self._nodes = {found["seen"]["id"]: _node(found) for found in progress["nodes"]}
        told = map(ProcessUsage.model_validate, progress["processes"])
        self._processes = {one.id: one for one in told}

    def _roll_up(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._rolled_up_s >= ROLL_UP_S:
            self._rolled_up_s = now_s
            self._store.roll_up()


def _busy(node: _Node) -> float | None:
    """CPU seconds of the whole node since the last look; None if nobody told."""
    if node.busy_s is None:
        return None
    before_s, node.busy_counted_s = node.busy_counted_s, node.busy_s
    if before_s is None:
        return None
    return max(0.0, node.busy_s - before_s - node.ahead_s)


def _billed_share(billed: Billed, share: float) -> Billed:
    return Billed(
        billed.node_s * share, billed.core_s * share, billed.gpu_s * share, billed.cost * share
    )


def _used_share(used: Used, share: float, with_calls: bool) -> Used:
    calls = used.calls if with_calls else 0
    return Used(used.core_s * share, used.gpu_s * share, calls, used.cost * share)


def _node_json(node: _Node) -> dict[str, Any]:
    assert node.seen is not None
    return {
        "seen": node.seen.model_dump(mode="json"),
        "cores": node.cores,
        "busy_s": node.busy_s,
        "busy_counted_s": node.busy_counted_s,
        "ahead_s": node.ahead_s,
        "pending": [
            [*owner, used.core_s, used.gpu_s, used.calls] for owner, used in node.pending.items()
        ],
    }


def _node(found: dict[str, Any]) -> _Node:
    width = len(Owner._fields)
    pending = {Owner(*one[:width]): Used(*one[width:]) for one in found["pending"]}
    kept = {name: found[name] for name in ("cores", "busy_s", "busy_counted_s", "ahead_s")}
    return _Node(NodeSeen.model_validate(found["seen"]), pending=pending, **kept)
