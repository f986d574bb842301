"""The kernel's store of reports: the latest of each replica process, and totals."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from aios.contracts import ViolationCounts
from aios.monitoring.evidence import Evidence, Moments, merge_reports, merge_sketches
from aios.records import ArmReport, Buckets, WindowReport
from aios.telemetry.histogram import Histogram
from aios.telemetry.sketches import Sketch

MAX_ERAS = 4
"""Eras kept per endpoint: the running one, the one before for late readers, and spares for
two replicas that lag. Baselines that must last are kept in the rollout's own state."""

MAX_PROCESSES = 512
"""Replica processes kept per era. Beyond it the one silent for longest is dropped."""

COUNTED = (
    "requests",
    "failed",
    "rejected",
    "shadow_dropped",
    "recorder_dropped",
    "outliers_missed",
)
"""Fields of a report that are added up over processes."""
MAX_ARMS = 30
"""(arm, version) pairs that are counted per endpoint. Beyond it the one silent for longest is
dropped, so that a year of retrains does not end in thousands of series."""

_Process = tuple[str, str, int]


@dataclass(frozen=True)
class ReplicaStatus:
    """What one replica last said of itself. `refused` says why it stays on an older plan."""

    replica: str
    node: str
    pid: int
    era: str
    revision: int
    at_s: float
    in_flight: int
    queued: int
    refused: str | None
    recorder_problem: str | None = None


@dataclass(frozen=True)
class EndpointTotals:
    """Counters that only grow as long as the kernel lives, over replicas and eras.

    `attempts` and `degraded` are by (arm, version), `errors` by (arm, version, kind),
    `violations` by field and kind of fault, in requests.
    `took` counts whole requests inside a replica by their duration, `service` the calls of a
    model by (arm, version), exactly. `in_flight`, `queued` and `replicas` are gauges over the
    replicas that reported lately. `latency` is what `took` counts, in seconds, as a sketch over
    the processes now known; None before the first report, and where one of the sketches
    arrived damaged.
    """

    requests: int = 0
    failed: int = 0
    rejected: int = 0
    shadow_dropped: int = 0
    recorder_dropped: int = 0
    outliers_missed: int = 0
    in_flight: int = 0
    queued: int = 0
    replicas: int = 0
    attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    degraded: dict[tuple[str, int], int] = field(default_factory=dict)
    errors: dict[tuple[str, int, str], int] = field(default_factory=dict)
    violations: dict[str, dict[str, int]] = field(default_factory=dict)
    took: Buckets = field(default_factory=Buckets)
    service: dict[tuple[str, int], Buckets] = field(default_factory=dict)
    latency: Sketch | None = None


class _EndpointLedger:
    """One endpoint's reports. `eras` is ordered by when an era was first heard of, `service` by
    when an arm was last."""

    def __init__(self) -> None:
        self.eras: OrderedDict[str, dict[_Process, WindowReport]] = OrderedDict()
        self.newest: dict[_Process, WindowReport] = {}
        self.since_s: dict[str, float] = {}
        self.kpi: dict[str, dict[str, Moments]] = {}
        self.counted: Counter[str] = Counter()
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.degraded: Counter[tuple[str, int]] = Counter()
        self.errors: Counter[tuple[str, int, str]] = Counter()
        self.violations = ViolationCounts()
        self.took = Histogram()
        self.service: OrderedDict[tuple[str, int], Histogram] = OrderedDict()

    def add(self, report: WindowReport) -> bool:
        process = (report.replica, report.node, report.pid)
        newest = self.newest.get(process)
        if newest is not None and report.sequence <= newest.sequence:
            return False
        self._count_process(report, newest)
        self.newest[process] = report
        reports = self._era(report.era)
        before = reports.get(process)
        reports[process] = report
        self.since_s[report.era] = min(report.at_s, self.since_s.get(report.era, report.at_s))
        self._count_arms(report.arms, before.arms if before else {})
        _drop_silent(reports)
        _drop_silent(self.newest)
        return True

    def _era(self, era: str) -> dict[_Process, WindowReport]:
        if era not in self.eras:
            self.eras[era] = {}
            while len(self.eras) > MAX_ERAS:
                oldest, _ = self.eras.popitem(last=False)
                self.kpi.pop(oldest, None)
                self.since_s.pop(oldest, None)
        return self.eras[era]

    def _count_process(self, report: WindowReport, before: WindowReport | None) -> None:
        for name in COUNTED:
            earlier = getattr(before, name) if before is not None else 0
            self.counted[name] += _growth(getattr(report, name), earlier)
        known = before.violations if before is not None else {}
        self.violations.add_growth(report.violations, known)
        self.took.grow(report.took, before.took if before is not None else None)

    def _count_arms(self, arms: dict[str, ArmReport], before: dict[str, ArmReport]) -> None:
        for name, arm in arms.items():
            old = before.get(name)
            if old is None or old.version != arm.version:
                old = ArmReport(version=arm.version)
            key = (name, arm.version)
            self.attempts[key] += _growth(arm.attempts, old.attempts)
            self.degraded[key] += _growth(arm.degraded, old.degraded)
            for kind, count in arm.errors.items():
                self.errors[(*key, kind)] += _growth(count, old.errors.get(kind, 0))
            self.service.setdefault(key, Histogram()).grow(arm.service, old.service)
            self.service.move_to_end(key)
        while len(self.service) > MAX_ARMS:
            self._forget_arm(*self.service.popitem(last=False)[0])

    def _forget_arm(self, name: str, version: int) -> None:
        self.attempts.pop((name, version), None)
        self.degraded.pop((name, version), None)
        for key in [key for key in self.errors if key[:2] == (name, version)]:
            del self.errors[key]


class Ledger:
    """The latest report by endpoint, era and replica process, in bounded memory.

    Not safe for threads: the kernel adds and reads on its event loop. After a restart of
    the kernel it is empty, and whole again a second later, because reports are cumulative.
    """

    def __init__(self) -> None:
        self._endpoints: dict[str, _EndpointLedger] = {}

    def add(self, report: WindowReport) -> bool:
        """Take a report; False when a later one of the same process was taken before."""
        return self._endpoints.setdefault(report.endpoint, _EndpointLedger()).add(report)

    def add_kpi(
        self, endpoint: str, era: str, arm: str, value: float, version: int | None = None
    ) -> None:
        """Count one fed-back business value for the arm that answered the request.

        Values for an era that is no longer kept, or that are not finite, are dropped: the
        stage that they would have judged is over. So are those of a `version` that the arm
        does not stand for in this era: they are of a rollout before.
        """
        ledger = self._endpoints.get(endpoint)
        if ledger is not None and era in ledger.eras:
            served = {one.arms[arm].version for one in ledger.eras[era].values() if arm in one.arms}
            if version is not None and version not in served:
                return
            arms = ledger.kpi.setdefault(era, {})
            arms[arm] = arms.get(arm, Moments()).add(value)

    def evidence(self, endpoint: str, era: str) -> Evidence | None:
        """What all replicas have seen in `era`; None when none has reported it."""
        ledger = self._endpoints.get(endpoint)
        reports = ledger.eras.get(era) if ledger is not None else None
        if ledger is None or reports is None:
            return None
        merged = merge_reports(reports.values(), era, since_s=ledger.since_s[era])
        return merged.with_kpi(ledger.kpi.get(era, {}))

    def replicas(self, endpoint: str, now_s: float, max_age_s: float = 5.0) -> list[ReplicaStatus]:
        """The replicas that reported within `max_age_s`, by name, with the plan they act on.

        A replica that was restarted in a new process appears once, as the newer process.
        """
        ledger = self._endpoints.get(endpoint)
        found: dict[str, ReplicaStatus] = {}
        for report in ledger.newest.values() if ledger is not None else ():
            known = found.get(report.replica)
            too_old = now_s - report.at_s > max_age_s
            if too_old or (known is not None and known.at_s >= report.at_s):
                continue
            found[report.replica] = ReplicaStatus(
                replica=report.replica,
                node=report.node,
                pid=report.pid,
                era=report.era,
                revision=report.revision,
                at_s=report.at_s,
                in_flight=report.in_flight,
                queued=report.queued,
                refused=report.refused,
                recorder_problem=report.recorder_problem,
            )
        return [found[name] for name in sorted(found)]

    def totals(self, endpoint: str, now_s: float, max_age_s: float = 5.0) -> EndpointTotals:
        """Counters for Prometheus; all zero for an endpoint that was never reported."""
        ledger = self._endpoints.get(endpoint)
        if ledger is None:
            return EndpointTotals()
        live = self.replicas(endpoint, now_s, max_age_s)
        return EndpointTotals(
            requests=ledger.counted["requests"],
            failed=ledger.counted["failed"],
            rejected=ledger.counted["rejected"],
            shadow_dropped=ledger.counted["shadow_dropped"],
            recorder_dropped=ledger.counted["recorder_dropped"],
            outliers_missed=ledger.counted["outliers_missed"],
            in_flight=sum(status.in_flight for status in live),
            queued=sum(status.queued for status in live),
            replicas=len(live),
            attempts=dict(ledger.attempts),
            degraded=dict(ledger.degraded),
            errors=dict(ledger.errors),
            violations=ledger.violations.by_field(),
            took=ledger.took.buckets(),
            service={key: one.buckets() for key, one in ledger.service.items()},
            latency=merge_sketches([report.latency for report in ledger.newest.values()]),
        )

    def endpoints(self) -> list[str]:
        """Names of all endpoints that were ever reported and not forgotten."""
        return sorted(self._endpoints)

    def forget(self, endpoint: str) -> None:
        """Drop all that is known of an endpoint that was taken down."""
        self._endpoints.pop(endpoint, None)


def _growth(now: int, before: int) -> int:
    """A counter that fell began again from zero."""
    return now - before if now >= before else now


def _drop_silent(reports: dict[_Process, WindowReport]) -> None:
    while len(reports) > MAX_PROCESSES:
        del reports[min(reports, key=lambda process: reports[process].at_s)]
