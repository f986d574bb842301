"""Spans of what the kernel does over hours: alarms, training runs, rollouts, as one trace.

alarm -> run -> its stages
             -> rollout -> its stages

Ids follow from the names of what they are about, and a run's cause holds the alarm's: a kernel that
takes over goes on under the same trace. Nothing is done while tracing is off.
"""

from typing import Any

from aios.clock import Clock
from aios.kernel.lineage import made_by
from aios.monitoring.watching import Raised, Resolved
from aios.records import TrainingRun
from aios.records.watching import Watch
from aios.registry import Registry, RolloutRow
from aios.rollout import State
from aios.telemetry.runs import of_run, of_stage
from aios.telemetry.traces import Tracer, named


class FlowTraces:
    """Tells a collector what has happened.

    Args:
        otlp_endpoint: its address; None: nothing is told.
        registry: says which run made the version that a rollout is about.
    """

    def __init__(self, otlp_endpoint: str | None, registry: Registry, clock: Clock) -> None:
        self._tracer = Tracer(otlp_endpoint, "aios-kernel")
        self._registry = registry
        self._clock = clock
        self.enabled = self._tracer.enabled

    def of_alarm(self, watch: Watch, condition: str) -> str | None:
        """The `traceparent` of an alarm that rings, for what it starts; None if none does, or
        tracing is off."""
        rings = [alarm for alarm in watch.state.alarms if alarm.condition == condition]
        return _of_alarm(watch, rings[0].id) if self.enabled and rings else None

    def alarm(self, watch: Watch, action: Raised | Resolved, reason: str) -> None:
        """An alarm rang, or is over; then its span says how long it rang."""
        if not self.enabled:
            return
        alarm, now_s = action.alarm, self._clock.now_s()
        identity = _of_alarm(watch, alarm.id)
        over = isinstance(action, Resolved)
        self._tracer.record(
            f"alarm {'over ' if over else ''}{watch.spec.endpoint}",
            named(f"over {watch.id} {alarm.id}", identity) if over else identity,
            identity if over else None,
            alarm.since_s,
            now_s if over else alarm.since_s,
            {
                "aios.endpoint": watch.spec.endpoint,
                "aios.watch": watch.id,
                "aios.condition": alarm.condition,
                "aios.field": alarm.finding.subject,
                "aios.score": alarm.finding.score,
                "aios.reason": reason,
            },
        )

    def run_stage(self, run_id: str, stage: str, started_s: float, attempts: int) -> None:
        """A stage of a run is over."""
        if not self.enabled:
            return
        run = self._registry.run(run_id)
        failed = run.status == "failed" and stage not in run.results
        told = run.results.get(stage, {})
        self._tracer.record(
            f"run stage {stage}",
            of_stage(run.id, run.spec.cause, stage),
            of_run(run.id, run.spec.cause),
            started_s,
            self._clock.now_s(),
            {"aios.run": run.id, "aios.stage": stage, "aios.attempts": attempts},
            (run.error or "failed") if failed else told.get("error"),
        )

    def run(self, run: TrainingRun) -> None:
        """A run is over, however it ended."""
        if not self.enabled:
            return
        cause = run.spec.cause or {}
        self._tracer.record(
            f"run {run.model}",
            of_run(run.id, run.spec.cause),
            cause.get("traceparent"),
            run.created_s,
            run.finished_s or self._clock.now_s(),
            {
                "aios.run": run.id,
                "aios.model": run.model,
                "aios.version": run.version,
                "aios.status": run.status,
                "aios.watch": cause.get("watch"),
                "enduser.id": run.created_by,
            },
            run.error if run.status == "failed" else None,
        )

    def rollout_stage(self, row: RolloutRow, before: State, after: State, name: str) -> None:
        """A rollout left a stage, for another or for good."""
        if not self.enabled or (before.stage, before.index) == (after.stage, after.index):
            return
        above = self._above(row)
        identity = named(f"rollout {row.id}", above)
        now_s = self._clock.now_s()
        about = {
            "aios.rollout": row.id,
            "aios.endpoint": row.endpoint,
            "aios.version": row.to_version,
            "aios.reason": after.reason,
        }
        wrong = after.reason if after.outcome == "rolled_back" else None
        self._tracer.record(
            f"rollout stage {name}",
            named(f"rollout {row.id} {before.stage} {before.index}", identity),
            identity,
            before.since_s,
            now_s,
            {**about, "aios.weight": before.weight_fraction},
            wrong,
        )
        if after.outcome is not None:
            told = {**about, "aios.status": after.outcome, "enduser.id": row.created_by}
            self._tracer.record(
                f"rollout {row.endpoint}", identity, above, row.created_s, now_s, told, wrong
            )

    def _above(self, row: RolloutRow) -> str | None:
        """The run that asked for this rollout, if one did."""
        model = self._registry.endpoint(row.endpoint).spec.model
        run = made_by(self._registry, self._registry.version(f"{model}:{row.to_version}"))
        wanted: dict[str, Any] = {} if run is None else run.spec.rollout or {}
        if run is None or wanted.get("endpoint") != row.endpoint:
            return None
        return of_run(run.id, run.spec.cause)

    def close(self) -> None:
        """Send what is buffered."""
        self._tracer.close()


def _of_alarm(watch: Watch, alarm_id: str) -> str:
    return named(f"alarm {watch.id} {alarm_id}")
