"""Explains one answer: what was asked, who let that version serve, and why it answered so."""

import threading
from concurrent.futures import Future
from typing import Any

from pydantic import Field

from aios.errors import AiosError
from aios.kernel.lineage import origin
from aios.kernel.runs import Workbench
from aios.records import (
    ApprovalRequest,
    Assessment,
    ModelVersion,
    Record,
    Serving,
    TrainingRun,
)
from aios.registry import Reads, RolloutRow


class ExplainQuery(Record):
    """One record, `row`, of the request `request_id`."""

    request_id: str = Field(min_length=1, max_length=200)
    row: int = Field(default=0, ge=0)


class Explaining:
    """Answers the query `explain`. Reading the log and asking the model is the workbench's work,
    in a process of its own, and takes seconds: who asks the same meanwhile, such as a client
    whose first call was given up on the way, waits for the same answer."""

    def __init__(self, reads: Reads, workbench: Workbench) -> None:
        self._reads = reads
        self._workbench = workbench
        self._lock = threading.Lock()
        self._going_on: dict[tuple[str, int], Future[dict[str, Any]]] = {}

    def explain(self, request_id: str, row: int) -> dict[str, Any]:
        """All that is known of an answer, as JSON.

        Raises:
            UnknownName: it is not in the prediction log; says why that may be.
        """
        asked = (request_id, row)
        with self._lock:
            other = self._going_on.get(asked)
            mine: Future[dict[str, Any]] = Future()
            if other is None:
                self._going_on[asked] = mine
        if other is not None:
            return other.result()
        try:
            found = self._explained(request_id, row)
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._going_on[asked]
        mine.set_result(found)
        return found

    def _explained(self, request_id: str, row: int) -> dict[str, Any]:
        answer = self._workbench.find_answer(ever_deployed(self._reads), request_id, row)
        version = _version_of(self._reads, answer)
        run, snapshot = origin(self._reads, version)
        served, rollout = _service(self._reads, version, answer)
        assessment = _assessment(self._reads, version, served, answer["at_s"])
        request = _approval(self._reads, version, served, assessment)
        return {
            **answer,
            "ref": version.ref,
            "digest": version.artifact.digest,
            "run": None if run is None else _run_facts(run),
            "snapshot": None if snapshot is None else snapshot.model_dump(mode="json"),
            "assessment": None
            if assessment is None
            else assessment.model_dump(mode="json", exclude={"card"}),
            "approval": None if request is None else request.model_dump(mode="json"),
            "served": None if served is None else served.model_dump(mode="json"),
            "rollout": None if rollout is None else _rollout_facts(rollout),
            "reasons": self._reasons(version, answer, run, assessment),
        }

    def _reasons(
        self,
        version: ModelVersion,
        answer: dict[str, Any],
        run: TrainingRun | None,
        assessment: Assessment | None,
    ) -> dict[str, Any]:
        """Contributions, or a sentence that says why there are none."""
        if answer["degraded"] is not None:
            return _none(
                f"the fallback {answer['degraded']!r} gave this answer, and not {version.ref}"
            )
        if run is None and assessment is not None and assessment.run is not None:
            # Whoever assessed a version that was made elsewhere brought rows of its data.
            run = self._reads.run(assessment.run)
        if run is None:
            return _none(
                f"{version.ref} was registered by hand, so that no rows are known that it could "
                f'be explained against: rt.assess("{version.ref}", recipe, data=...) brings some'
            )
        try:
            return self._workbench.explain(
                run.id, version.model_dump(mode="json"), answer["inputs"], run.spec.recipe
            )
        except AiosError as error:
            return _none(f"it could not be computed: {error.message}")


def _none(why: str) -> dict[str, Any]:
    return {"output": None, "contributions": None, "why": why}


def ever_deployed(reads: Reads) -> dict[str, str]:
    """Every endpoint that there is or was, and the model it served last."""
    models = dict.fromkeys(version.name for version in reads.versions())
    servings = [one for model in models for one in reads.servings_of(model)]
    servings.sort(key=lambda one: one.from_s)
    return {one.endpoint: one.model for one in servings}


def _version_of(reads: Reads, answer: dict[str, Any]) -> ModelVersion:
    """The version that answered: of the model that the endpoint served then."""
    servings = reads.servings(answer["endpoint"])
    earlier = [one for one in servings if one.from_s <= answer["at_s"]]
    model = (earlier or servings[:1])[-1].model
    return reads.version(f"{model}:{answer['version']}")


def _service(
    reads: Reads, version: ModelVersion, answer: dict[str, Any]
) -> tuple[Serving | None, RolloutRow | None]:
    """What let it serve: its time as stable, or the rollout that tried it on some users.

    The replicas' clocks and the kernel's differ, and a replica follows a change a moment later:
    so the last time it was stable counts, and not only the very moment.
    """
    endpoint, at_s = answer["endpoint"], answer["at_s"]
    if answer["arm"] == "stable":
        servings = [
            one
            for one in reads.servings(endpoint)
            if (one.model, one.version) == (version.name, version.version)
        ]
        earlier = [one for one in servings if one.from_s <= at_s] or servings[:1]
        return (earlier[-1] if earlier else None), None
    tried = [row for row in reads.rollouts(endpoint) if row.to_version == version.version]
    begun = [row for row in tried if row.created_s <= at_s] or tried[:1]
    return None, (begun[-1] if begun else None)


def _assessment(
    reads: Reads, version: ModelVersion, served: Serving | None, at_s: float
) -> Assessment | None:
    """The assessment that let it serve; else the newest at the time of the answer."""
    known = reads.assessments(version.ref)
    sealed = None if served is None else served.cleared_by.get("assessment")
    if sealed is not None:
        return next((one for one in known if one.digest == sealed), None)
    return next((one for one in reversed(known) if one.at_s <= at_s), None)


def _approval(
    reads: Reads, version: ModelVersion, served: Serving | None, assessment: Assessment | None
) -> ApprovalRequest | None:
    request_id = None if served is None else served.cleared_by.get("request")
    if request_id is not None:
        return reads.approval(request_id)
    if served is not None or assessment is None:
        return None
    asked = reads.approvals(version.ref, assessment.digest)
    return asked[-1] if asked else None


def _run_facts(run: TrainingRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "recipe": run.spec.recipe.path,
        "recipe_sha256": run.spec.recipe.sha256,
        "seed": run.spec.seed,
        "trials": run.spec.trials,
        "config": run.results.get("search", {}).get("config", {}),
        "created_s": run.created_s,
        "by": run.created_by,
    }


def _rollout_facts(row: RolloutRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "from_version": row.from_version,
        "status": row.status,
        "by": row.created_by,
        "created_s": row.created_s,
    }
