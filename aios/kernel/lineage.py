"""What a version came from and what became of it, as a graph: from its data to its endpoints."""

from collections import Counter
from typing import Any

from aios.errors import UnknownName
from aios.kernel.clearing import guard
from aios.presentation import duration
from aios.records import ModelVersion, Serving, Snapshot, TrainingRun
from aios.registry import Reads, RolloutRow


def lineage(reads: Reads, ref: str) -> dict[str, Any]:
    """The graph around one version: `{"ref", "because", "nodes": [...], "edges": [...]}`.

    `because` says why a watch had it made. Each node has an `id`, a `kind` (watch, snapshot, run,
    version, assessment, approval, rollout, endpoint), a `label` of one line, `at_s`, `good` (True,
    False, or None where that has no meaning) and `facts`. Edges are [from, to]. Nodes come in the
    order of cause and effect, and each has one cause at most.

    Raises:
        UnknownModel: there is no such version.
    """
    version = reads.version(ref)
    graph = _Graph()
    before = _origin(reads, graph, version)
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.items())
    clearance = guard(reads, version)
    may = "may serve" if clearance.allowed else "may not serve"
    own = graph.add(
        "version",
        version.ref,
        f"{may}{f'; {metrics}' if metrics else ''}",
        version.created_s,
        clearance.allowed,
        {
            "name": version.name,
            "version": version.version,
            "digest": version.artifact.digest,
            "size_bytes": version.artifact.size_bytes,
            "engine": version.artifact.engine,
            "contract": version.contract_digest,
            "metrics": version.metrics,
            "by": version.created_by,
            "tags": version.tags,
            "missing": list(clearance.missing),
        },
        before,
    )
    last = _checks(reads, graph, version, own)
    _service(reads, graph, version, last)
    return {
        "ref": version.ref,
        "because": because(reads, version),
        "nodes": graph.nodes,
        "edges": graph.edges,
    }


def because(reads: Reads, version: ModelVersion) -> str | None:
    """Why a version exists, in a sentence; None if a person wanted it.

    As `made_by`: a cause is believed only of the run that made these bytes.
    """
    run = made_by(reads, version)
    if run is None or run.spec.cause is None:
        return None
    return f"{version.ref} exists because {_cause(run.spec.cause)}"


def _cause(cause: dict[str, Any]) -> str:
    measured, _, limit = str(cause["condition"]).partition(" ")
    if cause.get("subject") and cause.get("score") is not None and limit:
        return f"{measured} of {cause['subject']} was {cause['score']:.2g} ({cause['condition']})"
    return str(cause["reason"])


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.edges: list[list[str]] = []

    def add(
        self,
        kind: str,
        name: str,
        label: str,
        at_s: float | None,
        good: bool | None,
        facts: dict[str, Any],
        after: str | None,
    ) -> str:
        found = f"{kind} {name}"
        self.nodes.append(
            {"id": found, "kind": kind, "label": label, "at_s": at_s, "good": good, "facts": facts}
        )
        if after is not None:
            self.edges.append([after, found])
        return found


def made_by(reads: Reads, version: ModelVersion) -> TrainingRun | None:
    """The run that made a version; None if it was registered by hand. `lineage=` may say
    anything then, so a run is believed only if it says itself that it made these bytes."""
    run_id = version.lineage.get("run")
    try:
        run = reads.run(run_id) if isinstance(run_id, str) else None
    except UnknownName:
        return None
    if run is None or (run.model, run.version) != (version.name, version.version):
        return None
    made = run.results.get("refit", {}).get("artifact", {}).get("digest")
    return run if made == version.artifact.digest else None


def origin(reads: Reads, version: ModelVersion) -> tuple[TrainingRun | None, Snapshot | None]:
    """The run that made a version, and its data as that run took them."""
    run, digest = made_by(reads, version), version.lineage.get("snapshot")
    taken = {} if run is None else run.results.get("snapshot", {}).get("snapshot", {})
    if digest is not None and taken.get("digest") == digest:
        return run, Snapshot.model_validate(taken)
    try:
        return run, reads.snapshot(digest) if isinstance(digest, str) else None
    except UnknownName:
        return run, None


def _origin(reads: Reads, graph: _Graph, version: ModelVersion) -> str | None:
    run, snapshot = origin(reads, version)
    cause = None if run is None or run.spec.cause is None else _trigger(graph, run)
    before = cause if snapshot is None else _snapshot(graph, snapshot, cause)
    if run is None:
        return before
    facts = {
        "run": run.id,
        "recipe": run.spec.recipe.path,
        "recipe_sha256": run.spec.recipe.sha256,
        "recipe_text": run.spec.recipe.text,
        "config": version.lineage.get("config"),
        "seed": run.spec.seed,
        "trials": run.spec.trials,
        "git": version.lineage.get("git"),
        "by": run.created_by,
    }
    trials = "1 trial" if run.spec.trials == 1 else f"{run.spec.trials} trials"
    label = f"{run.spec.recipe.path}, {trials}, seed {run.spec.seed}, by {run.created_by}"
    return graph.add("run", run.id, label, run.created_s, None, facts, before)


def _trigger(graph: _Graph, run: TrainingRun) -> str:
    cause = run.spec.cause or {}
    label = f"{cause['reason']}; at {cause['endpoint']}, version {cause['version']}"
    return graph.add("watch", str(cause["watch"]), label, run.created_s, None, dict(cause), None)


def _snapshot(graph: _Graph, snapshot: Snapshot, after: str | None) -> str:
    return graph.add(
        "snapshot",
        snapshot.digest[:12],
        f"{snapshot.source}, {snapshot.rows:,} rows",
        snapshot.taken_s,
        None,
        {
            "digest": snapshot.digest,
            "kind": snapshot.kind,
            "location": snapshot.location,
            "version": snapshot.version,
            "rows": snapshot.rows,
            "columns": {name: column.dtype for name, column in snapshot.columns.items()},
        },
        after,
    )


def _checks(reads: Reads, graph: _Graph, version: ModelVersion, last: str) -> str:
    """The newest assessment, and the answers of people to it; what all else came after."""
    assessment = reads.assessment(version.ref)
    if assessment is None:
        return last
    failed = [one.gate for one in assessment.results if one.outcome != "passed"]
    without = f"; not: {', '.join(failed)}" if failed else ""
    told = f"{len(assessment.results) - len(failed)} of {len(assessment.results)} gates passed"
    assessed = last = graph.add(
        "assessment",
        assessment.digest[:12],
        f"{told}{without}",
        assessment.at_s,
        not failed,
        {
            "digest": assessment.digest,
            "run": assessment.run,
            "snapshot": assessment.snapshot_digest,
            "policy": assessment.policy_digest,
            "gates": {
                r.gate: {"outcome": r.outcome, "reason": r.reason} for r in assessment.results
            },
        },
        last,
    )
    for request in reads.approvals(version.ref):
        void = request.digest != assessment.digest
        found = _approval(reads, graph, request, assessed, void)
        last = last if void else found
    return last


def _approval(reads: Reads, graph: _Graph, request: Any, after: str, void: bool = False) -> str:
    state = request.state(reads.now_s())
    names = "; ".join(f"{one.by}: {one.reason}" for one in request.decisions)
    told = f"void, was for another assessment; {state}" if void else state
    good = {"approved": True, "rejected": False}.get(state)
    return graph.add(
        "approval",
        request.id,
        f"{told}{f' ({names})' if names else ''}",
        request.requested_s,
        None if void else good,
        {
            "digest": request.digest,
            "subject": request.subject,
            "approvers": list(request.approvers),
            "needed": request.needed,
        },
        after,
    )


def _service(reads: Reads, graph: _Graph, version: ModelVersion, last: str) -> None:
    """Rollouts that brought it to users, and where it was stable."""
    rows = [row for row in reads.rollouts() if _is_of(reads, row, version)]
    for row in rows:
        found = graph.add("rollout", row.id, *_rollout_look(row), last)
        for request in reads.approvals():
            if request.subject.partition("@")[0] == row.id:
                _approval(reads, graph, request, found)
    times: Counter[str] = Counter()
    for serving in reads.servings_of(version.name, version.version):
        times[serving.endpoint] += 1
        again = times[serving.endpoint]
        brought = [
            row
            for row in rows
            if serving.cause == "rollout"
            and row.endpoint == serving.endpoint
            and row.created_s <= serving.from_s
        ]
        graph.add(
            "endpoint",
            serving.endpoint if again == 1 else f"{serving.endpoint} ({again})",
            _serving_label(serving),
            serving.from_s,
            False if serving.bad else True if serving.until_s is None else None,
            serving.model_dump(mode="json"),
            f"rollout {brought[-1].id}" if brought else last,
        )


def _is_of(reads: Reads, row: RolloutRow, version: ModelVersion) -> bool:
    """Whether a rollout was to this version: its row names no model, its endpoint then does."""
    if row.to_version != version.version:
        return False
    serving = reads.serving_at(row.endpoint, row.created_s)
    return serving is not None and serving.model == version.name


def _rollout_look(row: RolloutRow) -> tuple[str, float, bool | None, dict[str, Any]]:
    reason = f" ({row.reason})" if row.reason else ""
    label = f"{row.from_version} -> {row.to_version} on {row.endpoint}: {row.status}{reason}"
    good = {"promoted": True, "rolled_back": False, "failed": False}.get(row.status)
    facts = {
        "rollout": row.id,
        "endpoint": row.endpoint,
        "status": row.status,
        "reason": row.reason,
        "plan": row.plan,
        "by": row.created_by,
        "finished_s": row.finished_s,
    }
    return label, row.created_s, good, facts


def _serving_label(serving: Serving) -> str:
    if serving.until_s is None:
        lasted = "until now"
    else:
        lasted = f"for {duration(serving.until_s - serving.from_s)}"
    bad = ", taken back" if serving.bad else ""
    return f"stable of {serving.endpoint} {lasted}, by {serving.cause} of {serving.by}{bad}"
