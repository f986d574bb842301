"""Which stages a training run has, and what it is when some of them are done: pure."""

from typing import Any

from aios.records import RunSpec, RunStatus, TrainingRun

TRAINED = ("snapshot", "split", "search", "refit", "assess", "register", "track", "rollout")
REPRODUCED = ("snapshot", "split", "search", "refit")
ASSESSED = ("snapshot", "split", "assess", "register")


def stages_of(spec: RunSpec) -> tuple[str, ...]:
    """The stages of a run with this specification, in order."""
    if spec.assesses is not None:
        return ASSESSED
    if spec.reproduces is not None:
        return REPRODUCED
    skipped = set()
    if spec.tracking_uri is None:
        skipped.add("track")
    if spec.rollout is None:
        skipped.add("rollout")
    return tuple(stage for stage in TRAINED if stage not in skipped)


def next_stage(run: TrainingRun) -> str | None:
    """The stage that a run is to begin, or to begin again; None if it is over."""
    return _first_left(run.spec, run.results) if run.status == "running" else None


def _first_left(spec: RunSpec, results: dict[str, Any]) -> str | None:
    return next((stage for stage in stages_of(spec) if stage not in results), None)


def status_with(spec: RunSpec, results: dict[str, Any]) -> RunStatus:
    """What a run is with these results, if nothing went wrong."""
    if _first_left(spec, results) is not None:
        return "running"
    told = results.get("register")
    if told is None:
        return "finished"
    return "registered" if told["passed"] else "refused"
