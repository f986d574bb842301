"""What users see of the state, as JSON: joins the registry, Serve and the reports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aios.kernel.observations import Observations
from aios.kernel.serve_client import AppStatus, failure_reason
from aios.kernel.serve_config import API_APP, challenger_of
from aios.records import TrafficPlan
from aios.registry import EndpointState, Reads, Registry


def status(
    reads: Reads,
    started_s: float,
    now_s: float,
    *,
    endpoints: Sequence[dict[str, Any]],
    rollouts: Sequence[dict[str, Any]],
    uncleared: Sequence[Any],
    problems: Iterable[str | None],
) -> dict[str, Any]:
    """The whole runtime; of several problems the first is told."""
    versions = reads.versions()
    return {
        "started_s": started_s,
        "now_s": now_s,
        "models": len({version.name for version in versions}),
        "versions": len(versions),
        "endpoints": list(endpoints),
        "rollouts": list(rollouts),
        "broken_glass": [broken.model_dump(mode="json") for broken in reads.broken_glass()],
        "uncleared": list(uncleared),
        "problem": next(filter(None, problems), None),
    }


def endpoint(
    state: EndpointState,
    plan: TrafficPlan | None,
    observations: Observations,
    statuses: Mapping[str, AppStatus],
    problem: str | None,
) -> dict[str, Any]:
    """One endpoint: what is wanted, what runs, and whether the two agree (`ready`)."""
    name = state.spec.name
    app = statuses.get(name)
    replicas = observations.replicas(name)
    totals = observations.totals(name)
    live = bool(replicas) and all(
        plan is not None and replica.revision >= plan.revision for replica in replicas
    )
    challenger = plan.challenger if plan is not None else None
    failure = failure_reason(app.message) if app is not None and app.failed else None
    refused = next((replica.refused for replica in replicas if replica.refused), None)
    return {
        "name": name,
        "model": state.spec.model,
        "version": state.stable_version,
        "previous_version": state.previous_version,
        "revision": plan.revision if plan is not None else 0,
        "spec": state.spec.model_dump(mode="json"),
        "challenger": challenger.model_dump(mode="json", include={"arm", "weight_fraction"})
        | {"version": challenger.served.version}
        if challenger is not None
        else None,
        "status": app.status if app is not None else "PENDING",
        "ready": app is not None and app.ready and live,
        "problem": failure or refused or problem,
        "replicas": len(replicas),
        "requests": totals.requests,
        "failed": totals.failed,
        "rejected": totals.rejected,
        "in_flight": totals.in_flight,
        "p50_s": totals.latency.quantile(0.5) if totals.latency else None,
        "p95_s": totals.latency.quantile(0.95) if totals.latency else None,
        "p99_s": totals.latency.quantile(0.99) if totals.latency else None,
    }


def process(role: str, name: str, pid: int | None, in_flight: int | None = None) -> dict[str, Any]:
    """A row of `rt.ps()`."""
    return {
        "role": role,
        "name": name,
        "version": None,
        "pid": pid,
        "node": None,
        "state": "STARTING" if pid is None else "RUNNING",
        "started_s": None,
        "in_flight": in_flight,
        "revision": None,
    }


def processes(
    kernel_started_s: float,
    kernel_pid: int,
    statuses: Mapping[str, AppStatus],
    registry: Registry,
    observations: Observations,
) -> list[dict[str, Any]]:
    """Kernel, API, and replicas of each arm."""
    kernel = process("kernel", "kernel", kernel_pid)
    rows: list[dict[str, Any]] = [{**kernel, "started_s": kernel_started_s}]
    stable = {state.spec.name: state.stable_version for state in registry.endpoints()}
    reported = {
        replica.replica: replica for name in stable for replica in observations.replicas(name)
    }
    for app in statuses.values():
        role, name, shown = "endpoint", app.name, stable.get(app.name)
        challenger = challenger_of(app.name)
        if app.name == API_APP:
            role = "api"
        elif challenger is not None:
            role, (name, shown) = "challenger", challenger
        for replica in app.replicas:
            report = reported.get(replica.replica)
            rows.append(
                {
                    "role": role,
                    "name": name,
                    "version": shown,
                    "pid": replica.pid,
                    "node": replica.node,
                    "state": replica.state,
                    "started_s": replica.started_s,
                    "in_flight": report.in_flight if report is not None else None,
                    "revision": report.revision if report is not None else None,
                }
            )
    return rows


def model(registry: Registry, ref: str) -> dict[str, Any]:
    """One version."""
    return registry.version(ref).model_dump(mode="json")


def evidence(registry: Registry, id: str) -> list[dict[str, Any]]:
    """What a rollout was decided by."""
    registry.rollout(id)
    return [item.model_dump(mode="json") for item in registry.evidence(id)]


def models(registry: Registry, name: str | None = None) -> list[dict[str, Any]]:
    """Versions of one model or of all."""
    return [version.model_dump(mode="json") for version in registry.versions(name)]


def plans(registry: Registry, endpoint: str) -> list[dict[str, Any]]:
    """The traffic plans of an endpoint, without the keys that may call it."""
    return [plan.model_dump(mode="json", exclude={"keys"}) for plan in registry.plans(endpoint)]


def audit(registry: Registry, limit: int, subject: str | None) -> list[dict[str, Any]]:
    """The newest audit entries."""
    return [entry.model_dump(mode="json") for entry in registry.audit(limit, subject)]
