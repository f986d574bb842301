"""What the runtime returns: endpoints, answers, rollouts, and the tables of `ps` and `status`."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aios.errors import DeadlineExceeded, UsageError
from aios.presentation import Rows, Shown, duration
from aios.records import ModelVersion
from aios.runtime.transport import Transport

LOOK_S = 0.25


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """What a prediction returned.

    Attributes:
        outputs: one object per record, in order.
        arm: `stable`, or `canary` while a rollout tries a version.
        degraded: None, or `cache`, `rule`, `default` when a fallback answered.
        latency_s: seconds at this client, network included.
    """

    outputs: list[dict[str, Any]]
    version: int
    arm: str
    request_id: str
    degraded: str | None
    latency_s: float

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        names = list(self.outputs[0]) if self.outputs else []
        rows = [[index, *output.values()] for index, output in enumerate(self.outputs[:20])]
        degraded = f", degraded: {self.degraded}" if self.degraded else ""
        title = f"version {self.version} ({self.arm}{degraded}), {duration(self.latency_s)}"
        return title, ["row", *names], rows


class Endpoint(Shown):
    """A served thing. Holds only its name; every call asks the runtime."""

    def __init__(self, transport: Transport, name: str) -> None:
        self._transport = transport
        self.name = name

    def predict(
        self, records: Any, *, key: str | None = None, request_id: str | None = None
    ) -> Answer:
        """Ask for predictions.

        Args:
            records: a list of objects, one object, or a DataFrame; fields as in the contract.
            key: decides between stable and canary instead of the first record's key field.
            request_id: yours, to find the request again; made by the endpoint if not given.

        Raises:
            ContractViolation: a record does not fit; says which row and field.
            DeadlineExceeded, ModelFailed, Overloaded: no version and no fallback answered.
        """
        headers: dict[str, str] = {}
        if key is not None:
            headers["x-aios-key"] = key
        if request_id is not None:
            headers["x-request-id"] = request_id
        body, latency_s = self._transport.predict(self.name, _as_records(records), headers)
        return Answer(latency_s=latency_s, **body)

    def feedback(self, answer: Answer, kpi: float) -> None:
        """Tell what an answer was worth to the business; more is better. Feeds the abort
        rule `kpi worse` of a running rollout."""
        entry = {"request_id": answer.request_id, "arm": answer.arm, "kpi": kpi}
        self._transport.change(
            "POST", f"/api/v1/endpoints/{self.name}/feedback", {"answers": [entry]}
        )

    def status(self) -> dict[str, Any]:
        """What is wanted and what runs, as plain values."""
        found: dict[str, Any] = self._transport.get(f"/api/v1/endpoints/{self.name}")
        return found

    def series(self) -> list[dict[str, Any]]:
        """Per second and arm: count, errors, p50/p95/p99 in seconds; the last hour."""
        found: list[dict[str, Any]] = self._transport.get(f"/api/v1/endpoints/{self.name}/series")
        return found

    def wait(self, timeout_s: float = 120.0) -> "Endpoint":
        """Wait until all replicas act on the newest plan.

        Raises:
            DeadlineExceeded: they do not after `timeout_s`; says what Serve reports.
        """
        give_up_s = time.monotonic() + timeout_s
        with spinner(f"deploying {self.name}") as show:
            while True:
                status = self.status()
                if status["ready"]:
                    return self
                show(f"deploying {self.name}: {status['status'].lower()}")
                if status["status"] == "DEPLOY_FAILED" or time.monotonic() > give_up_s:
                    raise DeadlineExceeded(
                        f"endpoint {self.name!r} is not ready: {status['status']}; "
                        f"{status['problem'] or 'no reason was given'}"
                    )
                time.sleep(LOOK_S)

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        return endpoints_table([self.status()], f"endpoint {self.name}")


class Rollout(Shown):
    """A rollout, running or ended. Holds only its id; every call asks the runtime."""

    def __init__(self, transport: Transport, rollout_id: str) -> None:
        self._transport = transport
        self.id = rollout_id

    def status(self) -> "RolloutStatus":
        return RolloutStatus(self._transport.get(f"/api/v1/rollouts/{self.id}"))

    def evidence(self) -> list[dict[str, Any]]:
        """What each look saw: `{"era", "at_s", "payload"}`, in order."""
        found: list[dict[str, Any]] = self._transport.get(f"/api/v1/rollouts/{self.id}/evidence")
        return found

    def wait(self, timeout_s: float = 600.0) -> "RolloutStatus":
        """Wait until it has ended, whatever the outcome.

        Raises:
            DeadlineExceeded: it runs on after `timeout_s`; it is not touched.
        """
        give_up_s = time.monotonic() + timeout_s
        with spinner(f"rollout {self.id}") as show:
            while True:
                status = self.status()
                if status.finished:
                    return status
                show(f"rollout {self.id}: {status.summary}")
                if time.monotonic() > give_up_s:
                    raise DeadlineExceeded(
                        f"rollout {self.id} still runs after {timeout_s} s: {status.summary}"
                    )
                time.sleep(LOOK_S)

    def promote(self, reason: str = "") -> None:
        """Promote now, whatever the evidence; recorded with your name and reason.

        Raises:
            IllegalTransition: it has ended.
        """
        self._transport.change("POST", f"/api/v1/rollouts/{self.id}/promote", {"reason": reason})

    def abort(self, reason: str = "") -> None:
        """Give all traffic back to stable now.

        Raises:
            IllegalTransition: it has ended.
        """
        self._transport.change("POST", f"/api/v1/rollouts/{self.id}/abort", {"reason": reason})

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        return self.status()._shown()


class RolloutStatus(Shown):
    """A rollout at one moment.

    Attributes:
        outcome: `running`, `promoted`, `rolled_back`, `aborted`, `failed`, `undecided` or
            `finished`.
        stage: such as `canary 5%`.
        reason: why it ended as it did, or what it waits for.
        verdicts: one object per abort rule: rule, state, estimate, lower, upper, threshold,
            needed (further canary requests until a decision is expected).
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

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        title = (
            f"rollout {self.id}: {self.endpoint} {self.from_version} -> {self.to_version}, "
            f"{self.summary}"
        )
        headings = ["rule", "verdict", "estimate", "lower", "upper", "threshold", "needed"]
        columns = ["rule", "state", *headings[2:]]
        return title, headings, [[v.get(name) for name in columns] for v in self.verdicts]


class Table(Shown):
    """A list of plain objects that prints well: `rt.ps()`, `rt.models.list()`."""

    def __init__(self, title: str, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
        self.title = title
        self.rows = rows
        self._columns = tuple(columns)

    def __iter__(self) -> Any:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        return self.title, self._columns, [[row.get(c) for c in self._columns] for row in self.rows]


class Status(Shown):
    """The runtime at one moment: address, endpoints, running rollouts."""

    def __init__(self, address: str, fields: dict[str, Any]) -> None:
        self.address = address
        self.endpoints: list[dict[str, Any]] = fields["endpoints"]
        self.rollouts = [RolloutStatus(found) for found in fields["rollouts"]]
        self.models: int = fields["models"]
        self.versions: int = fields["versions"]
        self.problem: str | None = fields["problem"]
        self.uptime_s: float = fields["now_s"] - fields["started_s"]

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        problem = f"; problem: {self.problem}" if self.problem else ""
        rollouts = "".join(f"; {found.endpoint}: {found.summary}" for found in self.rollouts)
        title = (
            f"aios at {self.address}, kernel up {duration(self.uptime_s)}, {self.models} models, "
            f"{self.versions} versions{rollouts}{problem}"
        )
        return endpoints_table(self.endpoints, title)


class ModelVersions(Shown):
    """Versions of one or all models."""

    def __init__(self, versions: list[ModelVersion]) -> None:
        self.versions = versions

    def __iter__(self) -> Any:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)

    def __getitem__(self, index: int) -> ModelVersion:
        return self.versions[index]

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        rows = [
            [
                version.ref,
                version.artifact.engine,
                version.artifact.digest[:12],
                ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.items()),
                version.created_by,
            ]
            for version in self.versions
        ]
        return "models", ["version", "engine", "digest", "metrics", "by"], rows


def endpoints_table(
    endpoints: list[dict[str, Any]], title: str
) -> tuple[str, Sequence[str], Rows]:
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


def _challenger(found: dict[str, Any] | None) -> str | None:
    if found is None:
        return None
    share = f" {found['weight_fraction']:.0%}" if found["arm"] == "canary" else ""
    return f"{found['version']} {found['arm']}{share}"


def _as_records(records: Any) -> list[dict[str, Any]]:
    if hasattr(records, "to_dict") and hasattr(records, "columns"):
        clean = records.astype(object).where(records.notna(), None)
        found: list[dict[str, Any]] = clean.to_dict(orient="records")
        return found
    if isinstance(records, Mapping):
        return [dict(records)]
    if isinstance(records, Sequence) and not isinstance(records, str | bytes):
        return [dict(record) for record in records]
    raise UsageError(
        f"predict takes a list of objects, one object or a DataFrame, not {type(records).__name__}"
    )


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """A line that tells what is being waited for; silent when nobody watches a terminal."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update
