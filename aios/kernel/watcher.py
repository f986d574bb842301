"""Looks at what endpoints saw, raises alarms, and starts the retrains that watches ask for.

A thread that looks every second; what it decides is decided by `monitoring.watching`, pure. How
far a watch is stands in its row. Every action is carried out under an operation id that the same
look would use again, before the row is saved, so that a kernel killed in between repeats none.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aios.clock import Clock
from aios.errors import AiosError, UnknownEndpoint
from aios.kernel.feedback import FeedbackJoin, FeedbackLog, paired
from aios.kernel.flow_traces import FlowTraces
from aios.kernel.lineage import made_by
from aios.kernel.row_watching import RowComparisons
from aios.monitoring.conditions import ADWIN, DOMAIN, FAIRNESS, LABELLED
from aios.monitoring.fairness import judge_fairness, people
from aios.monitoring.judging import Seen, judge_feedback, judge_windows
from aios.monitoring.multivariate import judge_rows
from aios.monitoring.watching import (
    MOST_BLOCKS,
    Action,
    Raised,
    Resolved,
    Spent,
    StartRetrain,
    began,
    due,
    joined,
    judged,
    rows_compared,
    rows_due,
    set_back,
    stopped,
)
from aios.records import ModelVersion, RunSpec, TrainingRun
from aios.records.watching import (
    Block,
    Condition,
    Finding,
    RowQuestion,
    Watch,
    WatchSpec,
    WatchState,
)
from aios.registry import Observed, Registry
from aios.security import Caller
from aios.telemetry import Summary

LOOK_S = 1.0
GRACE_S = 4.0
"""How long after its end a window is judged: replicas send it within a second or two."""
FEEDBACK_S = 5.0
ROLL_UP_S = 600.0
STREAM_LABELS = 5_000
"""How much feedback, back from the newest, `error drift` looks at, and fairness at most: not all
of it says whom it is about."""
BASELINE_ROWS = 1000
"""A version without training data is compared with so many of its own first rows."""

logger = logging.getLogger("aios.kernel")


class Log(FeedbackLog, Protocol):
    """What is read of the prediction log elsewhere."""

    def compare_rows(self, question: dict[str, Any]) -> dict[str, Any]: ...


StartRun = Callable[[RunSpec, Caller, str], str]
Tell = Callable[[Watch, "Raised | Resolved", str], None]


class Watcher:
    """Drives every watch that is active.

    Args:
        start_run: begins a training run: (spec, on whose behalf, operation id) -> its id.
        tell: sees that people are told of an alarm or its end: (watch, what, id that a repeat
            has too).
    """

    def __init__(
        self,
        registry: Registry,
        observed: Observed,
        log: Log,
        clock: Clock,
        start_run: StartRun,
        tell: Tell,
        traces: FlowTraces,
    ) -> None:
        self._registry = registry
        self._observed = observed
        self._clock = clock
        self._start_run = start_run
        self._tell = tell
        self._traces = traces
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._references: dict[tuple[str, int], Seen] = {}
        self._rows = RowComparisons(log.compare_rows)
        self.feedback = FeedbackJoin(observed, log, clock)
        self.follow_feedback = self.feedback.follow
        self.wait_for_rows = self._rows.wait
        self.problems: dict[str, str] = {}

    def start(self) -> None:
        """Begin to look."""
        for name, look, pause_s in (
            ("watch", self.look, LOOK_S),
            ("feedback", self.follow_feedback, FEEDBACK_S),
            ("roll-up", self._roll_up, ROLL_UP_S),
        ):
            thread = threading.Thread(
                target=self._forever, args=(look, pause_s), name=f"aios-{name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Stop looking; the next kernel goes on."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _forever(self, look: Callable[[], Any], pause_s: float) -> None:
        while not self._closed.wait(pause_s):
            try:
                look()
            except Exception:
                logger.exception("a look failed; the next is in %s s", pause_s)

    def _roll_up(self) -> None:
        self._observed.roll_up()

    # -- looking ----------------------------------------------------------------------

    def look(self) -> None:
        """One look at every watch; what goes wrong with one does not stop the others."""
        watches = self._observed.watches()
        self._rows.keep({watch.id for watch in watches})
        for watch in watches:
            try:
                self._look(watch)
                self.problems.pop(watch.id, None)
            except AiosError as error:
                self.problems[watch.id] = error.message
                logger.warning("watch %s: %s", watch.id, error.message)
            except Exception as error:
                self.problems[watch.id] = f"unexpected {type(error).__name__}: {error!s:.300}"
                logger.exception("watch %s could not be looked at", watch.id)

    def _look(self, watch: Watch) -> None:
        now_s, spec, state = self._clock.now_s(), watch.spec, watch.state
        try:
            stable = self._registry.endpoint(spec.endpoint).stable_version
        except UnknownEndpoint:  # it may come back
            over, actions = stopped(state, "the endpoint was taken down")
            for action in actions:
                over = self._act(watch, over, action)
            if over != state:
                self._observed.save_watch(watch.id, over)
            return
        actions = []
        state = set_back(state, now_s)
        if state.version != stable:
            state, actions = began(state, stable, now_s)
        state, findings = self._judge(watch, state, now_s)
        state, more = judged(state, findings, now_s)
        actions += more
        wanted = state.alarms or spec.schedule is not None
        if wanted and spec.then is not None:
            state, spent, running = self._spent(watch, state, now_s)
            state, more = due(spec, state, spent, running, now_s)
            actions += more
        for action in actions:
            state = self._act(watch, state, action)
        if state != watch.state:
            self._observed.save_watch(watch.id, state)

    def _judge(
        self, watch: Watch, state: WatchState, now_s: float
    ) -> tuple[WatchState, list[Finding]]:
        by_rows, by_feedback, by_windows = _sorted_by_source(watch.spec.conditions)
        findings: list[Finding] = []
        if by_windows or by_rows:
            state, findings = self._judge_windows(watch, state, by_windows, now_s)
        if by_rows:
            state, more = self._judge_rows(watch, state, by_rows, now_s)
            findings += more
        if by_feedback:
            state, more = self._judge_feedback(watch, state, by_feedback)
            findings += more
        return state, findings

    def _judge_windows(
        self, watch: Watch, state: WatchState, conditions: list[Condition], now_s: float
    ) -> tuple[WatchState, list[Finding]]:
        spec, version = watch.spec, state.version
        assert version is not None
        reference = self.reference(spec.endpoint, version)
        if reference is None:
            return self._begin_baseline(watch, state, now_s), []
        bare = self._observed.windows(
            spec.endpoint,
            version=version,
            arm="stable",
            since_s=state.open_s,
            until_s=now_s - GRACE_S,
            content=False,
        )
        windows = [Block(start_s=one.start_s, end_s=one.end_s, rows=one.rows) for one in bare]
        blocks, open_s = joined(windows, state.open_s, spec.min_rows)
        if not blocks:
            return state, []
        every = (*state.blocks, *blocks)[-MOST_BLOCKS:]
        most = max((one.windows for one in conditions), default=0)
        findings: dict[str, Finding] = {}
        for place in range(len(every) - len(blocks), len(every)) if conditions else ():
            state = state.model_copy(update={"looks": state.looks + 1})
            last = every[max(0, place + 1 - most) : place + 1]
            seen = [self._seen(spec.endpoint, version, block) for block in last]
            for one in conditions:
                finding = judge_windows(one, reference, seen, _alpha(spec), state.looks)
                findings[one.text] = finding
        return state.model_copy(update={"blocks": every, "open_s": open_s}), list(findings.values())

    def _judge_rows(
        self, watch: Watch, state: WatchState, conditions: list[Condition], now_s: float
    ) -> tuple[WatchState, list[Finding]]:
        """Take the comparison that is ready; else see that the next one goes on."""
        version = state.version
        assert version is not None
        question = None
        if blocks := rows_due(state, conditions, now_s):
            made = self._made_by(watch.spec.endpoint, version)
            run = None if made is None else made.id
            endpoint = watch.spec.endpoint
            question = RowQuestion(endpoint=endpoint, version=version, run=run, blocks=blocks)
        ready = self._rows.ask(watch.id, question)
        if ready is None or ready[0].version != version:
            return state, []
        asked, found = ready
        state = rows_compared(state, asked, found)
        alpha, look = _alpha(watch.spec), max(state.row_looks, 1)
        return state, [judge_rows(one, found, alpha, look) for one in conditions]

    def _judge_feedback(
        self, watch: Watch, state: WatchState, conditions: list[Condition]
    ) -> tuple[WatchState, list[Finding]]:
        spec = watch.spec
        joined, last = self._observed.joined_since(spec.endpoint, state.label_seq)
        if joined < spec.min_labels:
            return state, []
        most = spec.min_labels * max(one.windows for one in conditions)
        if any(one.measure in (ADWIN, *FAIRNESS) for one in conditions):
            most = max(most, STREAM_LABELS)
        outcomes = self._observed.outcomes(spec.endpoint, state.version, most=most)
        output, label = spec.output or "", spec.label or ""
        predicted, truth = paired(outcomes, output, label)
        update = {"label_seq": last, "label_looks": state.label_looks + 1}
        state = state.model_copy(update=update)
        findings = []
        for one in conditions:
            told = (spec.min_labels, _alpha(spec), state.label_looks)
            if one.measure in FAIRNESS:
                known = people(outcomes, output, label, one.on)
                findings.append(judge_fairness(one, known, *told))
            else:
                findings.append(judge_feedback(one, predicted, truth, *told))
        return state, findings

    # -- references -------------------------------------------------------------------

    def reference(self, endpoint: str, version: int) -> Seen | None:
        """What is normal for a version: its training data, else its own first answers."""
        key = (endpoint, version)
        if key not in self._references:
            content = _trained_on(self._made_by(endpoint, version))
            content = content or self._observed.baseline(endpoint, version)
            if content is None:
                return None
            while len(self._references) >= 32:
                self._references.pop(next(iter(self._references)))
            self._references[key] = as_seen(content)
        return self._references[key]

    def trained_on(self, version: ModelVersion) -> dict[str, Any] | None:
        """The summaries of a version's training data; None if it was registered by hand."""
        return _trained_on(made_by(self._registry, version))

    def _made_by(self, endpoint: str, version: int) -> TrainingRun | None:
        model = self._registry.endpoint(endpoint).spec.model
        return made_by(self._registry, self._registry.version(f"{model}:{version}"))

    def _begin_baseline(self, watch: Watch, state: WatchState, now_s: float) -> WatchState:
        """Let the version's first rows be what is normal, once there are enough."""
        spec, version = watch.spec, state.version
        assert version is not None
        windows = self._observed.windows(
            spec.endpoint, version=version, arm="stable", until_s=now_s - GRACE_S
        )
        rows, taken = 0, []
        for window in windows:
            taken.append(window)
            rows += window.rows
            if rows >= max(BASELINE_ROWS, 2 * spec.min_rows):
                break
        else:
            return state
        seen = Seen.all_of([as_seen(one.model_dump()) for one in taken])
        self._observed.put_baseline(spec.endpoint, version, _as_json(seen))
        return state.model_copy(update={"open_s": max(state.open_s, taken[-1].end_s)})

    def _seen(self, endpoint: str, version: int, block: Block) -> Seen:
        windows = self._observed.windows(
            endpoint, version=version, arm="stable", since_s=block.start_s, until_s=block.end_s
        )
        return Seen.all_of([as_seen(one.model_dump()) for one in windows])

    # -- acting -----------------------------------------------------------------------

    def _act(self, watch: Watch, state: WatchState, action: Action) -> WatchState:
        if isinstance(action, StartRetrain):
            return self._retrain(watch, state, action)
        what = "alarm" if isinstance(action, Raised) else "alarm_over"
        operation_id = f"{watch.id}-{action.alarm.id}-{what}"
        finding = action.alarm.finding
        reason = finding.reason if isinstance(action, Raised) else action.reason
        details = {"watch": watch.id, "condition": action.alarm.condition, "reason": reason}
        with self._registry.change(
            actor="kernel",
            action=what,
            subject=watch.spec.endpoint,
            details=details,
            operation_id=operation_id,
            request_digest=_digest(operation_id),
        ) as change:
            if change.done is None:
                change.remember(details)
        logger.warning("%s %s: %s", what, operation_id, reason)
        self._tell(watch, action, operation_id)
        self._traces.alarm(watch, action, reason)
        return state

    def _retrain(self, watch: Watch, state: WatchState, action: StartRetrain) -> WatchState:
        then = watch.spec.then
        assert then is not None
        cause = {
            "watch": watch.id,
            "endpoint": watch.spec.endpoint,
            "version": state.version,
            **action.finding.model_dump(mode="json"),
        }
        rings = watch.model_copy(update={"state": state})
        traceparent = self._traces.of_alarm(rings, action.finding.condition)
        if traceparent is not None:
            cause["traceparent"] = traceparent
        self.feedback.export(watch.spec.endpoint)
        spec = then.model_copy(update={"cause": cause})
        caller = Caller(watch.created_by, "deployer")
        try:
            run = self._start_run(spec, caller, f"{watch.id}-retrain-{action.number}")
        except AiosError as error:
            held_back = f"the retrain could not be started: {error.message}"
            logger.warning("watch %s: %s", watch.id, held_back)
            return state.model_copy(update={"held_back": held_back})
        return state.model_copy(update={"run": run})

    def _spent(
        self, watch: Watch, state: WatchState, now_s: float
    ) -> tuple[WatchState, Spent, bool]:
        """What this watch has spent on retrains lately, and whether one, or the rollout of any
        version, is going on. A run that was started by a look that was never saved is taken up."""
        assert watch.spec.then is not None
        model = watch.spec.then.model
        mine = [
            run
            for run in self._registry.runs(model)
            if run.spec.cause is not None and run.spec.cause.get("watch") == watch.id
        ]
        if mine and mine[-1].id != state.run:
            update = {
                "run": mine[-1].id,
                "triggers": (*state.triggers, mine[-1].created_s),
                "triggered": state.triggered + 1,
            }
            state = state.model_copy(update=update)
        # A clock that was set back by more than that does not keep the budget spent.
        late = [run for run in mine if abs(now_s - run.created_s) <= watch.spec.budget.per_s]
        hours = sum(
            run.spec.cpus * max((run.finished_s or now_s) - run.created_s, 0.0) / 3600.0
            for run in late
        )
        running = any(run.status == "running" for run in mine)
        rollouts = self._registry.active_rollouts()
        running = running or any(row.endpoint == watch.spec.endpoint for row in rollouts)
        return state, Spent(len(late), hours), running


def _sorted_by_source(
    conditions: Sequence[Condition],
) -> tuple[list[Condition], list[Condition], list[Condition]]:
    """Those that are judged by rows, by feedback, and by windows."""
    rows = [one for one in conditions if one.measure == DOMAIN]
    feedback = [one for one in conditions if one.measure in (*LABELLED, *FAIRNESS)]
    return rows, feedback, [one for one in conditions if one not in (*rows, *feedback)]


def _alpha(spec: WatchSpec) -> float:
    """Each condition's share of the error probability."""
    return spec.error_probability / len(spec.conditions)


def _trained_on(run: TrainingRun | None) -> dict[str, Any] | None:
    if run is None:
        return None
    found: dict[str, Any] | None = run.results.get("refit", {}).get("reference")
    return found


def as_seen(content: dict[str, Any]) -> Seen:
    """Stored summaries of inputs and outputs."""
    return Seen(
        {name: Summary.from_json(one) for name, one in content["inputs"].items()},
        {name: Summary.from_json(one) for name, one in content["outputs"].items()},
    )


def _as_json(seen: Seen) -> dict[str, Any]:
    return {
        "inputs": {name: one.to_json() for name, one in seen.inputs.items()},
        "outputs": {name: one.to_json() for name, one in seen.outputs.items()},
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
