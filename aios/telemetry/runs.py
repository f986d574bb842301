"""Which spans a training run has: the kernel and the run's own process name them alike."""

from collections.abc import Mapping
from typing import Any

from aios.telemetry.traces import named


def of_run(run_id: str, cause: Mapping[str, Any] | None) -> str:
    """The `traceparent` of a run; in the trace of the alarm that caused it, if one did."""
    return named(f"run {run_id}", (cause or {}).get("traceparent"))


def of_stage(run_id: str, cause: Mapping[str, Any] | None, stage: str) -> str:
    """The `traceparent` of one stage of it."""
    return named(f"run {run_id} {stage}", of_run(run_id, cause))
