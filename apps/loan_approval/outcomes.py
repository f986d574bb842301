"""What the clients saw: one row per request, in columns, and figures made from them."""

import threading
from array import array
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

ARMS = ("none", "stable", "canary", "shadow")
DEGRADED = ("", "cache", "rule", "default")
KEPT_FAILURES = 20
"""How many failed answers keep their body: enough to see a cause."""

CAPACITY = 1_000_000
"""How many requests keep a row (about 120 bytes each); later ones are only counted."""


@dataclass(frozen=True)
class Failure:
    """A request that got no good answer. `status` is 0 if it got none at all."""

    at_s: float
    status: int
    text: str


@dataclass(frozen=True)
class Outcomes:
    """Requests in the order of their answers, as columns of equal length.

    Attributes:
        started_s: Unix time of the replay's start.
        sent_s: when each request was due, seconds since the start.
        latency_s: from the due time to the answer's last byte.
        status: HTTP status, 0 for no answer.
        arm: index into `ARMS`.
        version: the version that answered, 0 for none.
        degraded: index into `DEGRADED`.
        request_ids: as the server names them, "" for no answer.
    """

    started_s: float
    sent_s: npt.NDArray[np.float64]
    latency_s: npt.NDArray[np.float64]
    status: npt.NDArray[np.int16]
    arm: npt.NDArray[np.int8]
    version: npt.NDArray[np.int32]
    degraded: npt.NDArray[np.int8]
    request_ids: list[str]

    def __len__(self) -> int:
        return len(self.sent_s)

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """Which requests got no 2xx answer."""
        return np.asarray((self.status < 200) | (self.status >= 300))

    @property
    def answered_s(self) -> npt.NDArray[np.float64]:
        """When each answer was complete, seconds since the start."""
        return self.sent_s + self.latency_s

    def answered_by(self, version: int) -> dict[str, int]:
        """Good answers of one version by arm."""
        chosen = self.arm[(self.version == version) & ~self.failed]
        return {ARMS[arm]: int(count) for arm, count in enumerate(np.bincount(chosen)) if count}


@dataclass(frozen=True)
class Stats:
    """Figures over requests that are done. Latencies are NaN when there are none.

    `reconnected` counts requests that found their idle connection closed by the server and
    went over a new one.
    """

    sent: int = 0
    failed: int = 0
    degraded: int = 0
    reconnected: int = 0
    by_arm: dict[str, int] = field(default_factory=dict)
    by_version: dict[int, int] = field(default_factory=dict)
    rate_per_s: float = 0.0
    p50_s: float = float("nan")
    p95_s: float = float("nan")
    p99_s: float = float("nan")

    @property
    def answered(self) -> int:
        """Requests with a 2xx answer, degraded ones included."""
        return self.sent - self.failed


class Ledger:
    """Collects outcomes from one thread and shows them to others. Thread-safe."""

    def __init__(self, started_s: float, capacity: int = CAPACITY) -> None:
        self._started_s = started_s
        self._capacity = capacity
        self._lock = threading.Lock()
        self._sent_s = array("d")
        self._latency_s = array("d")
        self._status = array("h")
        self._arm = array("b")
        self._version = array("i")
        self._degraded = array("b")
        self._request_ids: list[str] = []
        self._arms: Counter[str] = Counter()
        self._versions: Counter[int] = Counter()
        self._sent = self._failed = self._degraded_count = self._reconnected = 0
        self._failures: list[Failure] = []

    def reconnected(self) -> None:
        """A request had to go over a new connection."""
        with self._lock:
            self._reconnected += 1

    def answered(
        self, sent_s: float, latency_s: float, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Count one answer, good or bad."""
        arm = headers.get("x-aios-arm", "none")
        degraded = headers.get("x-aios-degraded", "")
        version = int(headers.get("x-aios-version", 0))
        with self._lock:
            good = 200 <= status < 300
            if good:
                self._arms[arm] += 1
                self._versions[version] += 1
                self._degraded_count += bool(degraded)
            else:
                self._fail(sent_s, status, body.decode(errors="replace"))
            self._append(
                sent_s,
                latency_s,
                status,
                ARMS.index(arm) if arm in ARMS else 0,
                version,
                DEGRADED.index(degraded) if degraded in DEGRADED else 0,
                headers.get("x-aios-request-id", ""),
            )

    def unanswered(self, sent_s: float, latency_s: float, reason: str) -> None:
        """Count one request that got no answer."""
        with self._lock:
            self._fail(sent_s, 0, reason)
            self._append(sent_s, latency_s, 0, 0, 0, 0, "")

    def _fail(self, sent_s: float, status: int, text: str) -> None:
        self._failed += 1
        if len(self._failures) < KEPT_FAILURES:
            self._failures.append(Failure(sent_s, status, text[:500]))

    def _append(
        self,
        sent_s: float,
        latency_s: float,
        status: int,
        arm: int,
        version: int,
        degraded: int,
        request_id: str,
    ) -> None:
        self._sent += 1
        if len(self._sent_s) >= self._capacity:
            return
        self._sent_s.append(sent_s)
        self._latency_s.append(latency_s)
        self._status.append(status)
        self._arm.append(arm)
        self._version.append(version)
        self._degraded.append(degraded)
        self._request_ids.append(request_id)

    @property
    def failures(self) -> list[Failure]:
        """The first failed requests."""
        with self._lock:
            return list(self._failures)

    def outcomes(self, last: int | None = None) -> Outcomes:
        """A copy of all rows, or of the last ones."""
        with self._lock:
            since = 0 if last is None else max(0, len(self._sent_s) - last)
            return Outcomes(
                self._started_s,
                np.array(self._sent_s[since:], dtype=np.float64),
                np.array(self._latency_s[since:], dtype=np.float64),
                np.array(self._status[since:], dtype=np.int16),
                np.array(self._arm[since:], dtype=np.int8),
                np.array(self._version[since:], dtype=np.int32),
                np.array(self._degraded[since:], dtype=np.int8),
                self._request_ids[since:],
            )

    def counts(self, elapsed_s: float) -> Stats:
        """Totals since the start, without latencies: costs nothing."""
        with self._lock:
            return Stats(
                sent=self._sent,
                failed=self._failed,
                degraded=self._degraded_count,
                reconnected=self._reconnected,
                by_arm=dict(self._arms),
                by_version=dict(self._versions),
                rate_per_s=self._sent / elapsed_s if elapsed_s > 0 else 0.0,
            )

    def totals(self, elapsed_s: float) -> Stats:
        """Since the start; latency percentiles over the kept rows."""
        rows = self.outcomes()
        return _with_latency(self.counts(elapsed_s), rows.latency_s[~rows.failed])


def window_stats(rows: Outcomes, now_s: float, window_s: float) -> Stats:
    """Figures over the answers of the last `window_s` before `now_s` (since the start)."""
    chosen = rows.answered_s > now_s - window_s
    good = chosen & ~rows.failed
    arms = Counter(ARMS[arm] for arm in rows.arm[good].tolist())
    counted = Stats(
        sent=int(chosen.sum()),
        failed=int((chosen & rows.failed).sum()),
        degraded=int((rows.degraded[good] > 0).sum()),
        by_arm=dict(arms),
        by_version=dict(Counter(rows.version[good].tolist())),
        rate_per_s=float(chosen.sum()) / max(min(window_s, now_s), 1e-9),
    )
    return _with_latency(counted, rows.latency_s[good])


def _with_latency(stats: Stats, latency_s: npt.NDArray[np.float64]) -> Stats:
    if not len(latency_s):
        return stats
    p50_s, p95_s, p99_s = np.percentile(latency_s, (50, 95, 99)).tolist()
    return replace(stats, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s)
