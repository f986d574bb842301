"""Looks at what endpoints saw, raises alarms, and starts the retrains that watches ask for.

A thread that looks every second; what it decides is decided by `monitoring.watching`, pure. How
far a watch is stands in its row, and is saved together with what people are told of its alarms:
all of it or nothing.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aios.clock import Clock
from aios.errors import AiosError, IllegalTransition, UnknownEndpoint
from aios.kernel.feedback import FeedbackJoin, FeedbackLog, paired
from aios.kernel.flow_traces import FlowTraces
from aios.kernel.lineage import made_by
from aios.kernel.retraining import Retrains, StartRun
from aios.kernel.row_watching import RowComparisons
from aios.monitoring.conditions import DOMAIN, ERROR_DRIFT, FAIRNESS, LABELLED
from aios.monitoring.fairness import UNLABELLED, judge_fairness, people
from aios.monitoring.judging import Seen, judge_windows
from aios.monitoring.labelled import judge_feedback, never_said
from aios.monitoring.multivariate import judge_rows
from aios.monitoring.watching import (
    Raised,
    Resolved,
    Told,
    began,
    blocks_kept,
    joined,
    judged,
    rows_compared,
    rows_due,
    set_back,
    stopped,
)
from aios.records import ModelVersion, TrainingRun
from aios.records.watching import (
    Block,
    Condition,
    Finding,
    RowQuestion,
    Watch,
    WatchSpec,
    WatchState,
)
from aios.registry import Change, Observed, Registry
from aios.telemetry import Summary

LOOK_S = 1.0
GRACE_S = 4.0
"""How long after its end a window is judged: replicas send it within a second or two."""
FEEDBACK_S = 5.0
ROLL_UP_S = 600.0
STREAM_LABELS = 5_000
"""How much feedback, back from the newest, `error drift` looks at, and fairness at most: not all
of it says whom it is about."""
LATELY = 200
"""Answers with feedback that are asked for its names where nothing could be judged."""
BASELINE_ROWS = 1000
"""A version without training data is compared with so many of its own first rows."""

logger = logging.getLogger("aios.kernel")


class Log(FeedbackLog, Protocol):
    """What is read of the prediction log elsewhere."""

    def compare_rows(self, question: dict[str, Any]) -> dict[str, Any]: ...


Tell = Callable[[Change, Watch, Told], None]


class Watcher:
    """Drives every watch that is active.

    Args:
        start_run: begins a training run: (spec, on whose behalf, operation id) -> its id.
        tell: sees, inside a change, that people are told of an alarm or its end.
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
        self._tell = tell
        self._traces = traces
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._references: dict[tuple[str, str], Seen] = {}
        self._rows = RowComparisons(log.compare_rows)
        self.feedback = FeedbackJoin(observed, log, clock)
        self._retrains = Retrains(registry, self.feedback, start_run, traces)
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
        known = {watch.id for watch in watches}
        self._rows.keep(known)
        self.problems = {name: told for name, told in self.problems.items() if name in known}
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
            endpoint = self._registry.endpoint(spec.endpoint)
        except UnknownEndpoint:  # it may come back
            state, actions = stopped(state, "the endpoint was taken down")
            self._save(watch, state, actions)
            return
        model, stable = endpoint.spec.model, endpoint.stable_version
        if state.model not in (None, model):
            self._end(watch, f"endpoint {spec.endpoint!r} serves the model {model} now")
            return
        actions = []
        state = set_back(state, now_s)
        if state.version != stable:
            state, actions = began(state, stable, now_s)
        state = state.model_copy(update={"model": model})
        state, more = self._judge(watch, state, now_s)
        actions += more
        if self._save(watch, state, actions):
            after = self._retrains.look(watch, state, now_s)
            if after != state:
                self._observed.save_watch(watch.id, after)

    def _judge(
        self, watch: Watch, state: WatchState, now_s: float
    ) -> tuple[WatchState, list[Told]]:
        by_rows, by_feedback, by_windows = _sorted_by_source(watch.spec.conditions)
        actions: list[Told] = []
        if by_windows or by_rows:
            state, actions = self._judge_windows(watch, state, by_windows, now_s)
        if by_rows:
            state, findings = self._judge_rows(watch, state, by_rows, now_s)
            state, more = judged(state, findings, now_s)
            actions += more
        if by_feedback:
            state, findings = self._judge_feedback(watch, state, by_feedback)
            state, more = judged(state, findings, now_s)
            actions += more
        return state, actions

    def _judge_windows(
        self, watch: Watch, state: WatchState, conditions: list[Condition], now_s: float
    ) -> tuple[WatchState, list[Told]]:
        """Judge each block that is new, oldest first: what one raises, the next may end."""
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
        every = (*state.blocks, *blocks)
        most = max((one.windows for one in conditions), default=0)
        actions: list[Told] = []
        for place in range(len(state.blocks), len(every)) if conditions else ():
            state = state.model_copy(update={"looks": state.looks + 1})
            last = every[max(0, place + 1 - most) : place + 1]
            seen = [self._seen(spec.endpoint, version, block) for block in last]
            alpha, look = _alpha(spec), state.looks
            findings = [judge_windows(one, reference, seen, alpha, look) for one in conditions]
            state, more = judged(state, findings, now_s)
            actions += more
        needed = max(one.windows for one in spec.conditions)
        update = {"blocks": blocks_kept(every, needed, now_s), "open_s": open_s}
        return state.model_copy(update=update), actions

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
        if any(one.measure in (ERROR_DRIFT, *FAIRNESS) for one in conditions):
            most = max(most, STREAM_LABELS)
        output, label = spec.output or "", spec.label or ""
        about = {one.on if one.measure in FAIRNESS else label for one in conditions}
        outcomes = self._observed.outcomes(spec.endpoint, state.version, most=most, about=about)
        labelled = paired(outcomes, output, label)
        look = state.label_looks + 1
        findings = []
        for one in conditions:
            told = (spec.min_labels, _alpha(spec), look)
            if one.measure in FAIRNESS:
                known = people(outcomes, output, label, one.on)
                findings.append(judge_fairness(one, known, *told))
            else:
                findings.append(judge_feedback(one, labelled, *told))
        # What could not be judged has cost no error probability.
        judged_any = any(one.state != "not_enough_data" for one in findings)
        if not judged_any:
            lately = self._observed.outcomes(spec.endpoint, state.version, most=LATELY)
            findings = [
                never_said(finding, _needed(one, label), lately)
                for finding, one in zip(findings, conditions, strict=True)
            ]
        update = {"label_seq": last, "label_looks": look if judged_any else state.label_looks}
        return state.model_copy(update=update), findings

    # -- references -------------------------------------------------------------------

    def reference(self, endpoint: str, version: int) -> Seen | None:
        """What is normal for a version: its training data, else its own first answers."""
        key = (endpoint, f"{self._registry.endpoint(endpoint).spec.model}:{version}")
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
        until_s = now_s - GRACE_S
        # Summaries are many times larger than the rest, and read only when they will be used.
        bare = self._observed.windows(
            spec.endpoint, version=version, arm="stable", until_s=until_s, content=False
        )
        windows = [Block(start_s=one.start_s, end_s=one.end_s, rows=one.rows) for one in bare]
        first, _ = joined(windows, 0.0, max(BASELINE_ROWS, 2 * spec.min_rows))
        if not first:
            return state
        seen = self._seen(spec.endpoint, version, first[0])
        self._observed.put_baseline(spec.endpoint, version, _as_json(seen))
        return state.model_copy(update={"open_s": max(state.open_s, first[0].end_s)})

    def _seen(self, endpoint: str, version: int, block: Block) -> Seen:
        windows = self._observed.windows(
            endpoint, version=version, arm="stable", since_s=block.start_s, until_s=block.end_s
        )
        return Seen.all_of([as_seen(one.model_dump()) for one in windows])

    # -- acting -----------------------------------------------------------------------

    def _end(self, watch: Watch, reason: str) -> None:
        """Take a watch off whose endpoint came back with another model."""
        details = {"watch": watch.id, "reason": reason}
        over: list[Told] = []
        try:
            with self._registry.change(
                actor="kernel", action="unwatch", subject=watch.spec.endpoint, details=details
            ) as change:
                over += [Resolved(one, reason) for one in change.end_watch(watch.id).state.alarms]
                for action in over:
                    what, more = _told(watch, action)
                    change.also(what, **more)
                    self._tell(change, watch, action)
        except IllegalTransition:
            return  # somebody else took it off
        logger.warning("watch %s is over: %s", watch.id, reason)
        for action in over:
            self._traces.alarm(watch, action, reason)

    def _save(self, watch: Watch, state: WatchState, actions: Sequence[Told]) -> bool:
        """Save how far a watch is, with what is told of its alarms, all of it or nothing.

        Returns:
            Whether it is still active; if not, nothing is saved and nobody told.
        """
        if not actions:
            return state == watch.state or self._observed.save_watch(watch.id, state)
        try:
            self._tell_of(watch, state, actions)
        except IllegalTransition:
            return False  # it was taken off during this look
        return True

    def _tell_of(self, watch: Watch, state: WatchState, actions: Sequence[Told]) -> None:
        told = [_told(watch, action) for action in actions]
        what, details = told[0]
        with self._registry.change(
            actor="kernel", action=what, subject=watch.spec.endpoint, details=details
        ) as change:
            change.move_watch(watch.id, state)
            for other, more in told[1:]:
                change.also(other, **more)
            for action in actions:
                self._tell(change, watch, action)
        for action, (what, details) in zip(actions, told, strict=True):
            logger.warning("%s of %s: %s", what, watch.id, details["reason"])
            self._traces.alarm(watch, action, details["reason"])


def _sorted_by_source(
    conditions: Sequence[Condition],
) -> tuple[list[Condition], list[Condition], list[Condition]]:
    """Those that are judged by rows, by feedback, and by windows."""
    rows = [one for one in conditions if one.measure == DOMAIN]
    feedback = [one for one in conditions if one.measure in (*LABELLED, *FAIRNESS)]
    return rows, feedback, [one for one in conditions if one not in (*rows, *feedback)]


def _told(watch: Watch, action: Told) -> tuple[str, dict[str, Any]]:
    """What is done to an alarm, and the details, as the audit log has them."""
    alarm = action.alarm
    if isinstance(action, Raised):
        what, reason = "alarm", alarm.finding.reason
    else:
        what, reason = "alarm_over", action.reason
    return what, {"watch": watch.id, "condition": alarm.condition, "reason": reason}


def _needed(condition: Condition, label: str) -> list[str]:
    """The names in feedback that a condition cannot do without."""
    on = [condition.on] if condition.measure in FAIRNESS else []
    return on if condition.measure in UNLABELLED else [*on, label]


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
