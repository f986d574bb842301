"""Keeps the workers of users' flows: as many as wanted, each alive, none doubted.

A worker whose process ended, or whose lease nobody renewed for `TAKE_S`, is fenced: its lease is
taken, its process ended, its flows given to others, and another worker begins. What is true is
in the lease table, so a new kernel finds the workers of the one before it and goes on.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from aios.flows.client import FlowClient
from aios.flows.leases import TAKE_S
from aios.kernel.views import process

LOOK_S = 0.5
START_S = 120.0
"""A worker that has no lease after so long hangs in its start; imports take seconds."""
PAUSE_S = 5.0
"""Between two starts when workers die in theirs."""

GONE = 50
"""Workers that were fenced last, whose flows are looked for at every look."""
SWEEP_S = 30.0
"""Between two looks at all flows that run, for those of workers that nobody remembers."""

logger = logging.getLogger("aios.kernel")


class Crew(Protocol):
    """The processes of workers; Ray actors in production."""

    def start(self, worker_id: str) -> None:
        """Begin a worker; returns at once."""
        ...

    def find(self, worker_id: str) -> bool:
        """Whether there is such a process, begun by a kernel before this one."""
        ...

    def ended(self, wait_s: float) -> set[str]:
        """Those started or found whose process ended, waiting for the first for `wait_s`."""
        ...

    def end(self, worker_id: str) -> None:
        """End its process, if there is one."""
        ...


@dataclass
class _Seen:
    """What is known of a worker: its last renewal, when that was first seen, when it began."""

    begun_s: float
    beat: int | None = None
    beat_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What is to be done about workers now."""

    fence: frozenset[str] = frozenset()
    alive: frozenset[str] = frozenset()
    start: int = 0


@dataclass
class Watched:
    """What the kernel knows of workers, and what follows: a decision of `beats`, `dead`, time."""

    wanted: int
    workers: dict[str, _Seen] = field(default_factory=dict)
    began_s: float = float("-inf")
    failures: int = 0

    def look(self, beats: Mapping[str, int], dead: set[str], now_s: float) -> Verdict:
        """Fence what ended, is silent, or never came up; begin what is missing."""
        fence = set()
        for worker_id, seen in self.workers.items():
            beat = beats.get(worker_id)
            if beat is not None and beat != seen.beat:
                seen.beat, seen.beat_s = beat, now_s
                self.failures = 0
            silent = seen.beat is not None and now_s - seen.beat_s >= TAKE_S
            stuck = seen.beat is None and now_s - seen.begun_s >= START_S
            if worker_id in dead and seen.beat is None:
                self.failures += 1
            if worker_id in dead or silent or stuck:
                fence.add(worker_id)
        fence |= set(beats) - set(self.workers)  # of a kernel before, and no longer there
        for worker_id in fence:
            self.workers.pop(worker_id, None)
        pause_s = PAUSE_S if self.failures else 0.0
        missing = self.wanted - len(self.workers)
        start = missing if now_s - self.began_s >= pause_s else 0
        return Verdict(frozenset(fence), frozenset(self.workers), max(0, start))

    def begun(self, worker_id: str, now_s: float) -> None:
        """A worker was started, or found."""
        self.workers[worker_id] = _Seen(now_s)
        self.began_s = now_s


class FlowWorkers:
    """Looks after the workers in a thread of its own, from the first flow on."""

    def __init__(
        self,
        client: FlowClient,
        crew: Crew,
        wanted: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._crew = crew
        self._monotonic = monotonic
        self._watched = Watched(wanted)
        self._gone: deque[str] = deque(maxlen=GONE)
        self._swept_s = float("-inf")
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self.problem: str | None = None
        self.fenced = 0
        self.moved = 0

    def start(self) -> None:
        """Have workers, from now on; nothing happens if there are."""
        with self._starting:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._keep, name="aios-flow-workers", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Stop looking. The workers go on; the next kernel finds them."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def processes(self) -> list[dict[str, Any]]:
        """The workers as rows of `rt.ps()`."""
        if self._thread is None or not self._watched.workers:
            return []
        found = self._client.leases.processes()
        rows = []
        for worker_id in sorted(self._watched.workers):
            lease = found.get(worker_id)
            row = process("flow worker", worker_id, None if lease is None else lease.pid)
            if lease is not None:
                row |= {"node": lease.host, "started_s": lease.started_s}
            rows.append(row)
        return rows

    def _keep(self) -> None:
        found = False
        while not self._closed.is_set():
            try:
                if not found:
                    self._find()
                    found = True
                self._look(self._crew.ended(LOOK_S))
                self.problem = None
            except Exception as error:
                self.problem = f"workers of flows cannot be looked after: {error!s:.200}"
                logger.exception("the workers of flows could not be looked after; trying again")
                self._closed.wait(LOOK_S)

    def _find(self) -> None:
        """Workers of a kernel before this one that are still there."""
        self._client.open()
        for worker_id in self._client.leases.beats():
            if self._crew.find(worker_id):
                self._watched.begun(worker_id, self._monotonic())

    def _look(self, dead: set[str]) -> None:
        leases = self._client.leases
        verdict = self._watched.look(leases.beats(), dead, self._monotonic())
        processes = leases.processes() if verdict.fence else {}
        for worker_id in verdict.fence:
            logger.warning(
                "flow worker %s is gone or silent; others go on with its flows", worker_id
            )
            # First of all: frozen in the middle of a transaction, it holds SQLite's lock. By its
            # pid, as what it runs under may ask it to end itself, which the frozen never do.
            if worker_id in processes:
                processes[worker_id].kill()
            self._crew.end(worker_id)
            leases.take(worker_id)
            self.fenced += 1
            self._gone.append(worker_id)
        now_s = self._monotonic()
        if now_s - self._swept_s >= SWEEP_S:
            self.moved += self._client.take_over(set(verdict.alive))
            self._swept_s = now_s
        # Also later: a fenced worker of another machine may still claim before it ends itself.
        self.moved += self._client.take_over_from(list(self._gone))
        for worker_id in verdict.fence:
            leases.forget(worker_id)
        for _ in range(verdict.start):
            worker_id = f"flow-worker-{uuid4().hex[:12]}"
            self._crew.start(worker_id)
            self._watched.begun(worker_id, self._monotonic())
