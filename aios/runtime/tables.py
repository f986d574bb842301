"""What the runtime answers about itself: statuses and lists that look well anywhere."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aios.presentation import ALARM, Rows, Shown, duration, moment
from aios.records import ModelVersion

Look = tuple[str, Sequence[str], Rows]


class Table(Shown):
    """A list of plain objects that prints well: `rt.ps()`, `rt.audit()`."""

    def __init__(self, title: str, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
        self.title = title
        self.rows = rows
        self._columns = tuple(columns)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def _shown(self) -> Look:
        rows = [
            [moment(row.get(c)) if c == "at_s" else row.get(c) for c in self._columns]
            for row in self.rows
        ]
        headings = ["at" if column == "at_s" else column for column in self._columns]
        return f"{self.title}{'' if rows else ': none'}", headings, rows


class ModelVersions(Shown):
    """Versions of one or all models, oldest first."""

    def __init__(self, versions: list[ModelVersion]) -> None:
        self.versions = versions

    def __iter__(self) -> Iterator[ModelVersion]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)

    def __getitem__(self, index: int) -> ModelVersion:
        return self.versions[index]

    def _shown(self) -> Look:
        rows = [
            [
                version.ref,
                version.artifact.engine,
                version.artifact.digest[:12],
                ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.items()),
                version.created_by,
                moment(version.created_s),
            ]
            for version in self.versions
        ]
        headings = ["version", "engine", "digest", "metrics", "by", "at"]
        return f"models{'' if rows else ': none'}", headings, rows


class EndpointStatus(Shown, Mapping[str, Any]):
    """An endpoint at one moment: what is wanted and what runs, by name as in a dict.

    Keys: name, model, version, previous_version, revision, spec, challenger, status (Serve's
    word), ready, problem, replicas, requests, failed, rejected, in_flight, p50_s, p95_s, p99_s.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def _shown(self) -> Look:
        return endpoints_table([self.fields], f"endpoint {self.fields['name']}")


class RolloutStatus(Shown):
    """A rollout at one moment.

    Attributes:
        outcome: `running`, `promoted`, `rolled_back`, `aborted`, `failed`, `undecided` or
            `finished`.
        stage: such as `canary 5%`.
        reason: why it ended as it did, or what it waits for.
        verdicts: one object per abort rule: rule, state, estimate, lower, upper, threshold,
            needed (further canary requests until a decision is expected).
        fields: all of it, as plain values.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.id: str = fields["id"]
        self.endpoint: str = fields["endpoint"]
        self.from_version: int = fields["from_version"]
        self.to_version: int = fields["to_version"]
        self.outcome: str = fields["status"]
        self.stage: str = fields["stage"]
        self.reason: str | None = fields["reason"]
        self.verdicts: list[dict[str, Any]] = fields["verdicts"]
        self.created_s: float = fields["created_s"]
        self.finished_s: float | None = fields["finished_s"]
        self.fields = fields

    @property
    def finished(self) -> bool:
        return self.outcome != "running"

    @property
    def summary(self) -> str:
        """One line: outcome or stage, and why."""
        head = self.outcome if self.finished else self.stage
        return f"{head}: {self.reason}" if self.reason else head

    def _shown(self) -> Look:
        title = (
            f"rollout {self.id}: {self.endpoint} {self.from_version} -> {self.to_version}, "
            f"{self.summary}"
        )
        headings = ["rule", "verdict", "estimate", "lower", "upper", "threshold", "needed"]
        columns = ["rule", "state", *headings[2:]]
        return title, headings, [[v.get(name) for name in columns] for v in self.verdicts]


class Status(Shown):
    """The runtime at one moment: address, endpoints, running rollouts."""

    def __init__(self, address: str, fields: dict[str, Any]) -> None:
        self.address = address
        self.endpoints = [EndpointStatus(found) for found in fields["endpoints"]]
        self.rollouts = [RolloutStatus(found) for found in fields["rollouts"]]
        self.models: int = fields["models"]
        self.versions: int = fields["versions"]
        self.problem: str | None = fields["problem"]
        self.broken_glass: list[dict[str, Any]] = fields["broken_glass"]
        self.uncleared: list[dict[str, Any]] = fields["uncleared"]
        self.uptime_s: float = fields["now_s"] - fields["started_s"]

    def _shown(self) -> Look:
        problem = f"; problem: {self.problem}" if self.problem else ""
        rollouts = "".join(f"; {found.endpoint}: {found.summary}" for found in self.rollouts)
        title = (
            f"aios at {self.address}, kernel up {duration(self.uptime_s)}, "
            f"{_counted(self.models, 'model')}, {_counted(self.versions, 'version')}"
            f"{rollouts}{problem}"
        )
        for broken in self.broken_glass:
            who, why = broken["by"], broken["reason"]
            title += f"\n{ALARM}glass is broken for {broken['name']} by {who}: {why}"
        for one in self.uncleared:
            what, why = f"{one['endpoint']} serves {one['ref']}", "; ".join(one["missing"])
            title += f"\n{ALARM}{what}, which is not cleared now: {why}"
        return endpoints_table(self.endpoints, title)


def endpoints_table(endpoints: Sequence[Mapping[str, Any]], title: str) -> Look:
    """One row per endpoint."""
    headings = ["endpoint", "stable", "challenger", "ready", "replicas", "requests", "failed"]
    rows = [
        [
            found["name"],
            f"{found['model']}:{found['version']}",
            _challenger(found["challenger"]),
            "yes" if found["ready"] else f"no ({found['problem'] or found['status'].lower()})",
            found["replicas"],
            found["requests"],
            found["failed"],
            duration(found["p50_s"]),
            duration(found["p99_s"]),
        ]
        for found in endpoints
    ]
    return title, [*headings, "p50", "p99"], rows


def _challenger(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    share = f" {found['weight_fraction']:.0%}" if found["arm"] == "canary" else ""
    return f"{found['version']} {found['arm']}{share}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
