"""What replicas report, kept in memory and shared by the kernel's threads."""

import math
import threading
from collections import OrderedDict
from typing import Any, get_args

from aios.clock import Clock
from aios.errors import UsageError
from aios.monitoring import EndpointTotals, Evidence, Ledger, ReplicaStatus, Series
from aios.records import ArmName, WindowReport

MAX_FEEDBACK_IDS = 100_000


class Observations:
    """A lock around the ledger and the per-second series of each endpoint.

    After a restart of the kernel it is empty and fills again within a second or two:
    reports are cumulative.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._series: dict[str, Series] = {}
        self._fed_back: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add(self, report: WindowReport) -> None:
        with self._lock:
            if self._ledger.add(report):
                self._series.setdefault(report.endpoint, Series()).add(report)

    def evidence(self, endpoint: str, era: str) -> Evidence | None:
        with self._lock:
            return self._ledger.evidence(endpoint, era)

    def replicas(self, endpoint: str) -> list[ReplicaStatus]:
        """Those that reported within the last few seconds."""
        with self._lock:
            return self._ledger.replicas(endpoint, self._clock.now_s())

    def recorder_problem(self) -> str | None:
        """Why a replica, of any endpoint, cannot record predictions now."""
        for endpoint in list(self._series):
            for replica in self.replicas(endpoint):
                if replica.recorder_problem is not None:
                    return f"endpoint {endpoint!r}: {replica.recorder_problem}"
        return None

    def totals(self, endpoint: str) -> EndpointTotals:
        with self._lock:
            return self._ledger.totals(endpoint, self._clock.now_s())

    def series(self, endpoint: str) -> list[dict[str, Any]]:
        with self._lock:
            found = self._series.get(endpoint)
            return found.to_json() if found is not None else []

    def feedback(self, endpoint: str, answers: list[dict[str, Any]]) -> int:
        """Count business values for the arms that gave the answers, once per request id.

        Args:
            answers: `{"request_id", "arm", "version", "kpi"}` each; `kpi` a number, more is
                better; `version`, which answered, may be left out.

        Returns:
            How many were counted; repeats are not.

        Raises:
            UsageError: an entry lacks a field, names no arm, or its value is not a finite
                number.
        """
        taken = 0
        parsed = [_feedback(entry) for entry in answers]
        with self._lock:
            live = self._ledger.replicas(endpoint, self._clock.now_s())
            era = live[-1].era if live else None
            for request_id, arm, value, version in parsed:
                if era is None or (endpoint, request_id) in self._fed_back:
                    continue
                self._fed_back[(endpoint, request_id)] = None
                self._ledger.add_kpi(endpoint, era, arm, value, version)
                taken += 1
            while len(self._fed_back) > MAX_FEEDBACK_IDS:
                self._fed_back.popitem(last=False)
        return taken

    def forget(self, endpoint: str) -> None:
        with self._lock:
            self._ledger.forget(endpoint)
            self._series.pop(endpoint, None)


def _feedback(entry: dict[str, Any]) -> tuple[str, str, float, int | None]:
    version = entry.get("version")
    try:
        request_id, arm, value = str(entry["request_id"]), str(entry["arm"]), float(entry["kpi"])
        version = None if version is None else int(version)
    except (KeyError, TypeError, ValueError, OverflowError):
        request_id, arm, value = "", "", math.nan
    if not request_id or arm not in get_args(ArmName) or not math.isfinite(value):
        raise UsageError(
            'feedback needs {"request_id": text, "arm": text, "kpi": number} for each answer, '
            f"with one of the arms {', '.join(get_args(ArmName))}; got {str(entry)[:120]}"
        )
    return request_id, arm, value, version
