"""Starts the retrains that watches ask for, and says what they have spent.

When one may start is decided by `monitoring.watching.due`, pure. It is started under an operation
id that a repeat uses again, so that a kernel killed in between starts it once.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from aios.errors import AiosError
from aios.kernel.feedback import FeedbackJoin
from aios.kernel.flow_traces import FlowTraces
from aios.monitoring.watching import Spent, StartRetrain, due, looks, not_started
from aios.records import RunSpec, TrainingRun
from aios.records.watching import RetrainBudget, Watch, WatchState
from aios.registry import Registry
from aios.security import Caller

StartRun = Callable[[RunSpec, Caller, str], str]

logger = logging.getLogger("aios.kernel")


class Retrains:
    """The retrains of all watches.

    Args:
        start_run: begins a training run: (spec, on whose behalf, operation id) -> its id.
    """

    def __init__(
        self, registry: Registry, feedback: FeedbackJoin, start_run: StartRun, traces: FlowTraces
    ) -> None:
        self._registry = registry
        self._feedback = feedback
        self._start_run = start_run
        self._traces = traces

    def look(self, watch: Watch, state: WatchState, now_s: float) -> WatchState:
        """Start what a watch asks for, if it may be started now."""
        spec, then = watch.spec, watch.spec.then
        if then is None or not (state.alarms or spec.schedule is not None):
            return state.model_copy(update={"held_back": None}) if state.held_back else state
        reach_s = spec.budget.per_s
        # A clock that was set back by more than that does not keep the budget spent.
        runs = self._registry.recent_runs(then.model, now_s - reach_s, now_s + reach_s)
        caused = [run for run in runs if run.spec.cause is not None]
        mine = [run for run in caused if _of(run) == watch.id]
        state = _taken_up(state, mine)
        spent = spent_by(mine, self._registered(mine), spec.budget, now_s)
        after, starts = due(spec, state, spent, self._going_on(watch, caused), now_s)
        return self._start(watch, state, after, starts[0], now_s) if starts else after

    def _start(
        self, watch: Watch, before: WatchState, after: WatchState, start: StartRetrain, now_s: float
    ) -> WatchState:
        then, endpoint = watch.spec.then, watch.spec.endpoint
        assert then is not None
        if then.data.kind == "predictions" and not self._feedback.written(then.data.location):
            reason = f"the feedback on {then.data.location!r} is written to its table first"
            return before.model_copy(update={"held_back": reason})
        cause = {
            "watch": watch.id,
            "endpoint": endpoint,
            "version": before.version,
            **start.finding.model_dump(mode="json"),
        }
        rings = watch.model_copy(update={"state": before})
        traceparent = self._traces.of_alarm(rings, start.finding.condition)
        if traceparent is not None:
            cause["traceparent"] = traceparent
        spec = then.model_copy(update={"cause": cause})
        caller = Caller(watch.created_by, "deployer")
        try:
            run = self._start_run(spec, caller, f"{watch.id}-retrain-{start.number}")
        except AiosError as error:
            state = not_started(before, error.message, now_s)
            logger.warning("watch %s: %s", watch.id, state.held_back)
            return state
        return after.model_copy(update={"run": run})

    def _going_on(self, watch: Watch, caused: Sequence[TrainingRun]) -> str | None:
        """What is going on: the retrain of any watch of this model, or a rollout here."""
        runs = [f"run {run.id}" for run in caused if run.status == "running"]
        rollouts = self._registry.active_rollouts()
        here = [f"rollout {one.id}" for one in rollouts if one.endpoint == watch.spec.endpoint]
        return next(iter((*runs, *here)), None)

    def _registered(self, runs: Sequence[TrainingRun]) -> dict[str, float]:
        return {
            run.id: self._registry.version(f"{run.model}:{run.version}").created_s
            for run in runs
            if run.version is not None
        }


def _of(run: TrainingRun) -> str | None:
    return None if run.spec.cause is None else run.spec.cause.get("watch")


def _taken_up(state: WatchState, mine: Sequence[TrainingRun]) -> WatchState:
    """Take up a run that was started by a look that was never saved."""
    if not mine or mine[-1].id == state.run:
        return state
    update = {
        "run": mine[-1].id,
        "triggers": (*state.triggers, mine[-1].created_s),
        "triggered": state.triggered + 1,
        "retrained_look": looks(state),
    }
    return state.model_copy(update=update)


def spent_by(
    runs: Sequence[TrainingRun],
    registered: Mapping[str, float],
    budget: RetrainBudget,
    now_s: float,
) -> Spent:
    """What runs have used up within the budget's time. A run computes until its version is
    registered; after that it waits for people, which takes no CPU.

    Args:
        registered: when the versions of runs were registered (Unix seconds), by the run's id.
    """
    late = [run for run in runs if abs(now_s - run.created_s) <= budget.per_s]
    hours = 0.0
    for run in late:
        until_s = registered.get(run.id, run.finished_s or now_s)
        hours += run.spec.cpus * max(until_s - run.created_s, 0.0) / 3600.0
    return Spent(len(late), hours)
