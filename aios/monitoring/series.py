"""Per-second rows for charts, derived from cumulative reports by differencing."""

import math
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.errors import StoreCorrupt
from aios.records import ArmReport, WindowReport
from aios.telemetry.sketches import Sketch

MAX_SECONDS = 3600
"""One hour per endpoint: the longest rollout that a chart should show second by second."""

_MAX_PROCESSES = 512
_RANKS = np.arange(1, 101) / 101.0


@dataclass(frozen=True)
class SeriesRow:
    """What one arm did in one second, over all replicas. Latencies in seconds, NaN where
    the arm answered nothing."""

    at_s: int
    arm: str
    version: int
    era: str
    count: int
    errors: int
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass
class _Bucket:
    count: int = 0
    errors: int = 0
    values: "NDArray[np.float64] | None" = None
    weights: "NDArray[np.float64] | None" = None


class Series:
    """A ring of the last `max_seconds` seconds of one endpoint.

    Add each report as it comes. A report is compared with the one before it of the same
    process and era; the difference goes to the second of the report. A lost report's share
    therefore appears one second later, a repeated or overtaken one is ignored, and a new
    process or era begins from zero. Quantiles of a second come from the difference of two
    cumulative sketches and are as exact as the sketches are: good for charts, not used for
    decisions.
    """

    def __init__(self, max_seconds: int = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._seconds: OrderedDict[int, dict[tuple[str, int, str], _Bucket]] = OrderedDict()
        self._before: OrderedDict[tuple[str, str, int], WindowReport] = OrderedDict()

    def add(self, report: WindowReport) -> None:
        """Count what is new in `report`."""
        process = (report.replica, report.node, report.pid)
        before = self._before.get(process)
        if before is not None and report.sequence <= before.sequence:
            return
        self._before[process] = report
        self._before.move_to_end(process)
        while len(self._before) > _MAX_PROCESSES:
            self._before.popitem(last=False)
        earlier = before.arms if before is not None and before.era == report.era else {}
        for name, arm in report.arms.items():
            old = earlier.get(name)
            if old is None or old.version != arm.version or old.attempts > arm.attempts:
                old = ArmReport(version=arm.version)
            self._count(int(report.at_s), (name, arm.version, report.era), arm, old)

    def _count(
        self, second: int, key: tuple[str, int, str], arm: ArmReport, old: ArmReport
    ) -> None:
        count = arm.attempts - old.attempts
        if count <= 0:
            return
        if second not in self._seconds:
            self._seconds[second] = {}
            while len(self._seconds) > self._max_seconds:
                del self._seconds[min(self._seconds)]
        bucket = self._seconds.get(second, {}).setdefault(key, _Bucket())
        bucket.count += count
        bucket.errors += max(0, sum(arm.errors.values()) - sum(old.errors.values()))
        values, weights = _difference(old.latency, arm.latency)
        if values.size:
            if bucket.values is not None and bucket.weights is not None:
                values = np.concatenate([bucket.values, values])
                weights = np.concatenate([bucket.weights, weights])
            bucket.values, bucket.weights = values, weights

    def rows(self, since_s: float = -math.inf) -> list[SeriesRow]:
        """All rows from `since_s` on, by time, then arm. Seconds without calls are absent."""
        rows = []
        for second in sorted(self._seconds):
            if second < since_s:
                continue
            for (arm, version, era), bucket in sorted(self._seconds[second].items()):
                p50_s, p95_s, p99_s = _quantiles(bucket)
                rows.append(
                    SeriesRow(
                        at_s=second,
                        arm=arm,
                        version=version,
                        era=era,
                        count=bucket.count,
                        errors=bucket.errors,
                        p50_s=p50_s,
                        p95_s=p95_s,
                        p99_s=p99_s,
                    )
                )
        return rows

    def to_json(self, since_s: float = -math.inf) -> list[dict[str, Any]]:
        """`rows` as JSON objects; an unknown latency is null."""
        return [
            {key: None if value != value else value for key, value in asdict(row).items()}
            for row in self.rows(since_s)
        ]


def _difference(before: bytes, after: bytes) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """About a hundred values with weights that stand for what was added between two
    cumulative sketches: the growth of the rank at each of the later sketch's quantiles."""
    empty = np.empty(0)
    try:
        late, early = Sketch.from_bytes(after), Sketch.from_bytes(before)
    except StoreCorrupt:
        return empty, empty  # a chart with a gap; counts and errors are still shown
    if late.count <= early.count:
        return empty, empty
    values, shares = late.steps
    if values.size > 4 * _RANKS.size:
        index = np.unique(np.searchsorted(shares, np.append(_RANKS, [0.995, 0.999, 1.0])))
        index = np.minimum(index, values.size - 1)
        values, shares = values[index], shares[index]
    earlier = early.cdf_many(values) * early.count if early.count else np.zeros(values.size)
    grown = np.maximum.accumulate(np.maximum(shares * late.count - earlier, 0.0))
    weights = np.diff(grown, prepend=0.0)
    keep = weights > 0
    return values[keep], weights[keep]


def _quantiles(bucket: _Bucket) -> tuple[float, float, float]:
    if bucket.values is None or bucket.weights is None:
        return math.nan, math.nan, math.nan
    order = np.argsort(bucket.values)
    shares = np.cumsum(bucket.weights[order])
    index = np.searchsorted(shares, np.array([0.5, 0.95, 0.99]) * shares[-1] - 1e-9)
    found = bucket.values[order][np.minimum(index, len(order) - 1)]
    return float(found[0]), float(found[1]), float(found[2])
