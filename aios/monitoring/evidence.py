"""What all replicas together have seen of each arm since an era began."""

import base64
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from aios.errors import StoreCorrupt
from aios.records import ArmReport, WindowReport
from aios.telemetry.sketches import Sketch


@dataclass(frozen=True)
class Moments:
    """Enough of a sample to judge its mean. Sums of values that are not finite are refused
    by `add`, so that one NaN cannot blind a rule."""

    count: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0

    @property
    def mean(self) -> float:
        """NaN when empty."""
        return self.sum / self.count if self.count else float("nan")

    @property
    def variance(self) -> float:
        """The population variance; 0 when empty."""
        if not self.count:
            return 0.0
        return max(0.0, self.sum_squares / self.count - self.mean**2)

    def add(self, value: float) -> "Moments":
        """With one value more; a value that is not finite changes nothing."""
        if not math.isfinite(value):
            return self
        return Moments(self.count + 1, self.sum + value, self.sum_squares + value * value)


@dataclass(frozen=True)
class ArmEvidence:
    """One arm since the era began, summed over replicas.

    `errors` counts failed attempts by kind, `latency` is in seconds. `agreement` holds, for
    a shadow, `pairs`, `sum` and `over_tolerance`. A sketch that no replica sent, or that
    arrived damaged, is missing rather than empty: rules that need it say "no data".
    """

    version: int
    attempts: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    degraded: int = 0
    latency: Sketch | None = None
    outputs: dict[str, Sketch] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    kpi: Moments = field(default_factory=Moments)

    @property
    def error_count(self) -> int:
        """Failed attempts of every kind; never more than `attempts`."""
        return min(sum(self.errors.values()), self.attempts)

    def to_json(self) -> dict[str, Any]:
        """For a row in the database; `from_json` reads it back."""
        return {
            "version": self.version,
            "attempts": self.attempts,
            "errors": dict(self.errors),
            "degraded": self.degraded,
            "latency": _encode(self.latency) if self.latency else None,
            "outputs": {name: _encode(sketch) for name, sketch in self.outputs.items()},
            "agreement": dict(self.agreement),
            "kpi": [self.kpi.count, self.kpi.sum, self.kpi.sum_squares],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ArmEvidence":
        """What `to_json` wrote.

        Raises:
            StoreCorrupt: It is not what `to_json` writes.
        """
        try:
            latency = value["latency"]
            return cls(
                version=value["version"],
                attempts=value["attempts"],
                errors=dict(value["errors"]),
                degraded=value["degraded"],
                latency=_decode(latency) if latency else None,
                outputs={name: _decode(text) for name, text in value["outputs"].items()},
                agreement=dict(value["agreement"]),
                kpi=Moments(*value["kpi"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreCorrupt(f"stored evidence of an arm cannot be read: {error!r}") from error


@dataclass(frozen=True)
class Evidence:
    """All arms of one endpoint in one era.

    `since_s` is when the first report of the era was made, `latest_s` the last, both by the
    replicas' clocks; `replicas` is how many processes have reported. `reports` changes with
    every new report of any of them, so a reader can tell fresh evidence from old without
    comparing clocks.
    """

    era: str
    arms: dict[str, ArmEvidence] = field(default_factory=dict)
    since_s: float | None = None
    latest_s: float | None = None
    replicas: int = 0
    reports: int = 0

    def arm(self, name: str) -> ArmEvidence | None:
        """The arm's evidence, or None if no replica has reported it."""
        return self.arms.get(name)

    def with_kpi(self, kpi: dict[str, Moments]) -> "Evidence":
        """The same with fed-back business values, which come from the kernel and not from
        replicas; arms that no replica reported are left out."""
        arms = {
            name: replace(arm, kpi=kpi[name]) if name in kpi else arm
            for name, arm in self.arms.items()
        }
        return replace(self, arms=arms)


def merge_reports(
    reports: Iterable[WindowReport], era: str, *, since_s: float | None = None
) -> Evidence:
    """Evidence of one era: the latest report per replica process, then sums over them.

    A restarted replica counts from zero in a new process, so replica, node and pid together
    name one count; what the old process had counted stays. Reports of other eras are
    ignored, also late ones, as are reports overtaken by a later sequence.

    Args:
        reports: In any order, repeats allowed; all of one endpoint.
        era: The stage of a rollout that counts.
        since_s: When the era began if the caller knows; else the earliest report's time.
    """
    latest: dict[tuple[str, str, int], WindowReport] = {}
    times: list[float] = []
    for report in reports:
        if report.era != era:
            continue
        times.append(report.at_s)
        key = (report.replica, report.node, report.pid)
        if key not in latest or report.sequence > latest[key].sequence:
            latest[key] = report
    return Evidence(
        era=era,
        arms=merge_arms(latest.values()),
        since_s=since_s if since_s is not None else min(times, default=None),
        latest_s=max(times, default=None),
        replicas=len(latest),
        reports=sum(report.sequence for report in latest.values()),
    )


def merge_arms(reports: Iterable[WindowReport]) -> dict[str, ArmEvidence]:
    """Sums per arm over reports of different processes.

    Where replicas disagree about an arm's version (a plan is still spreading), the newest
    version counts alone: mixing two models would judge neither.
    """
    found: dict[str, list[ArmReport]] = {}
    for report in reports:
        for name, arm in report.arms.items():
            found.setdefault(name, []).append(arm)
    return {name: _sum_arm(arms) for name, arms in sorted(found.items())}


def _sum_arm(reports: list[ArmReport]) -> ArmEvidence:
    version = max(report.version for report in reports)
    errors: Counter[str] = Counter()
    agreement: Counter[str] = Counter()
    outputs: dict[str, list[bytes]] = {}
    reports = [report for report in reports if report.version == version]
    for report in reports:
        errors.update({kind: count for kind, count in report.errors.items() if count > 0})
        for key, value in report.agreement.items():
            agreement[key] += value  # type: ignore[assignment]
        for name, data in report.outputs.items():
            outputs.setdefault(name, []).append(data)
    merged = {name: merge_sketches(parts) for name, parts in outputs.items()}
    return ArmEvidence(
        version=version,
        attempts=sum(report.attempts for report in reports),
        errors=dict(errors),
        degraded=sum(report.degraded for report in reports),
        latency=merge_sketches([report.latency for report in reports]),
        outputs={name: sketch for name, sketch in merged.items() if sketch is not None},
        agreement=dict(agreement),
    )


def merge_sketches(parts: list[bytes]) -> Sketch | None:
    """One sketch of all parts. None when nothing was sent or any part is damaged: half a
    distribution would be judged as if it were whole."""
    merged: Sketch | None = None
    try:
        for data in parts:
            if not data:
                continue
            sketch = Sketch.from_bytes(data)
            if merged is None:
                merged = sketch
            else:
                merged.merge(sketch)
    except StoreCorrupt:
        return None
    return merged


def _encode(sketch: Sketch) -> str:
    return base64.b64encode(sketch.to_bytes()).decode("ascii")


def _decode(text: str) -> Sketch:
    return Sketch.from_bytes(base64.b64decode(text))
