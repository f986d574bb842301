"""Commands and queries about watches, and what a monitor shows."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from aios.contracts import Boolean, Category, Contract, Field, Integer, Number, Tensor, Text
from aios.errors import UsageError
from aios.kernel.alert_delivery import check
from aios.kernel.alerts import Alerts
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.feedback import attributes, paired
from aios.kernel.feedback_commands import FeedbackCommands
from aios.kernel.observations import Observations
from aios.kernel.requests import MaybeEndpoint, OfEndpoint, OfId
from aios.kernel.runs import check_spec
from aios.kernel.watcher import Watcher, as_seen
from aios.monitoring.conditions import ERROR_DRIFT, ESTIMATED, FAIRNESS, LABELLED, reread
from aios.monitoring.fairness import groups_view, people
from aios.monitoring.judging import Seen
from aios.monitoring.labelled import measured, measures
from aios.monitoring.view import fields_view, windows_view
from aios.monitoring.watching import Resolved, next_time
from aios.records import Record
from aios.records.watching import Condition, Outcome, Watch, WatchSpec, Window, WindowPart
from aios.registry import Observed, Registry
from aios.security import Caller

NOW_ROWS = 1_000
"""What a monitor shows as `now`: the last windows with so many rows together."""
MOST_POINTS = 50


class AddWatch(Record):
    """A watch as wanted."""

    spec: WatchSpec


class WatchCommands:
    """What people ask of watches, and feedback.

    Args:
        observations: takes business values for a running rollout, and has replicas' counts.
    """

    def __init__(
        self,
        registry: Registry,
        observed: Observed,
        watcher: Watcher,
        alerts: Alerts,
        observations: Observations,
    ) -> None:
        self._registry = registry
        self._observed = observed
        self._watcher = watcher
        self._alerts = alerts
        self._observations = observations
        self.commands: Commands = {
            "watch": (AddWatch, self._watch),
            "unwatch": (OfId, self._unwatch),
            **FeedbackCommands(registry, observed, observations.feedback).commands,
        }
        self.queries: Queries = {
            "watches": (MaybeEndpoint, self._watches),
            "monitor": (OfEndpoint, self._monitor),
        }

    def take_windows(self, parts: Sequence[dict[str, Any]]) -> None:
        """Keep what a replica saw; it may be told again."""
        self._observed.add_parts([WindowPart.model_validate(part) for part in parts])

    # -- commands ---------------------------------------------------------------------

    def _watch(self, request: AddWatch, asked: Asked) -> dict[str, Any]:
        spec = self._checked(request.spec)
        told = {
            "conditions": [one.text for one in spec.conditions],
            "schedule": spec.schedule,
            "retrains": spec.then is not None,
            "alerts": [sink.shown for sink in spec.alerts],
        }
        with asked.change(self._registry, "watch", spec.endpoint, **told) as change:
            if change.done is not None:
                return change.done
            watch = Watch(
                id=f"{spec.endpoint}-watch-{uuid4().hex[:8]}",
                spec=spec,
                created_s=change.at_s,
                created_by=asked.actor,
            )
            change.note(watch=watch.id)
            change.add_watch(watch)
            change.remember({"id": watch.id})
        return {"id": watch.id}

    def _unwatch(self, request: OfId, asked: Asked) -> dict[str, Any]:
        endpoint = self._registry.watch(request.id).spec.endpoint
        with asked.change(self._registry, "unwatch", endpoint, watch=request.id) as change:
            if change.done is not None:
                return change.done
            watch = change.end_watch(request.id)
            for alarm in watch.state.alarms:
                over = Resolved(alarm, f"the watch was taken off by {asked.actor}")
                self._alerts.tell(change, watch, over)
            change.remember({"id": request.id})
        return {"id": request.id}

    def _checked(self, spec: WatchSpec) -> WatchSpec:
        """The watch with its output and label filled in.

        Raises:
            UsageError: a condition is not what its text says, or is there twice, is about a field
                that does not exist, measures what the output has not, or is about groups by what
                the model answers, the schedule is no cron line, the run could not be started, or
                an alert's secret is not on this machine.
            UnknownEndpoint: it is not deployed.
        """
        state = self._registry.endpoint(spec.endpoint)
        version = self._registry.version(f"{state.spec.model}:{state.stable_version}")
        contract = Contract.from_json(version.contract)
        output = spec.output or next(iter(contract.outputs))
        if output not in contract.outputs:
            raise UsageError(
                f"output={output!r} is none of {version.ref}: {', '.join(contract.outputs)}"
            )
        label = spec.label or output
        conditions = reread(spec.conditions, output)
        known = ("any", "inputs", "outputs", *contract.inputs, *contract.outputs)
        for one in conditions:
            if one.measure in FAIRNESS:
                _refuse_no_group(one, (*contract.outputs, spec.label))
            elif one.measure in (*LABELLED, ESTIMATED):
                refuse_no_measure(one, output, contract.outputs[output])
            elif one.on not in known:
                raise UsageError(
                    f"{one.text!r} is about {one.on!r}, and {version.ref} has no such field; there "
                    f"are {', '.join(known)}"
                )
            _refuse_unseen(one, contract)
        if spec.schedule is not None:
            next_time(spec.schedule, self._registry.now_s())
        if spec.then is not None:
            if spec.then.model != state.spec.model:
                raise UsageError(f"endpoint {spec.endpoint!r} serves {state.spec.model!r}")
            check_spec(self._registry, spec.then)
        for sink in spec.alerts:
            check(sink)
        update = {"output": output, "label": label, "conditions": conditions}
        return spec.model_copy(update=update)

    # -- queries ----------------------------------------------------------------------

    def _watches(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        if endpoint is not None:
            self._registry.endpoint(endpoint)
        return [self._view(watch) for watch in self._observed.watches(endpoint)]

    def _view(self, watch: Watch) -> dict[str, Any]:
        shown = watch.model_dump(mode="json", exclude={"spec": {"then"}})
        then = watch.spec.then
        shown["then"] = None if then is None else f"retrain with {then.recipe.path} on {then.data}"
        shown["problem"] = self._watcher.problems.get(watch.id)
        shown["run"] = self._run(watch.state.run)
        shown["undelivered"] = self._alerts.undelivered(watch.id)
        return shown

    def _run(self, run_id: str | None) -> dict[str, Any] | None:
        """How the last retrain ended, or where it is."""
        if run_id is None:
            return None
        run = self._registry.run(run_id)
        fields = {"id", "status", "stage", "version", "error"}
        return run.model_dump(mode="json", include=fields)

    def _monitor(self, endpoint: str) -> dict[str, Any]:
        state = self._registry.endpoint(endpoint)
        version = state.stable_version
        stable = self._registry.version(f"{state.spec.model}:{version}")
        contract = Contract.from_json(stable.contract)
        windows = self._observed.windows(endpoint, version=version, arm="stable")
        outcomes = self._observed.outcomes(endpoint, version)
        reference = self._watcher.reference(endpoint, version)
        trained = self._watcher.trained_on(stable)
        watches = self._watches(endpoint)
        output, label = _told_by(watches, contract)
        protected = self._registry.profile(state.spec.model).protected
        named = sorted({*attributes(self._observed, endpoint), *protected})
        return {
            "endpoint": endpoint,
            "version": stable.ref,
            "normal": "training data" if trained else "its first answers" if reference else None,
            "feedback": self._observed.feedback_counts(endpoint),
            "refused": self._observations.totals(endpoint).violations,
            "watches": watches,
            "windows": windows_view(reference, windows),
            "fields": fields_view(reference or Seen({}, {}), self._now(windows)),
            "quality": _quality(outcomes, output, label),
            "domain_auc": [
                {"end_s": end_s, "auc": auc}
                for end_s, auc in max(
                    (one["state"]["row_scores"] for one in watches), key=len, default=()
                )
            ],
            "groups": {one: groups_view(people(outcomes, output, label, one)) for one in named},
        }

    def _now(self, windows: list[Window]) -> Seen:
        """What came lately: the last windows with enough rows to look at."""
        taken: list[Window] = []
        for window in reversed(windows):
            taken.append(window)
            if sum(one.rows for one in taken) >= NOW_ROWS:
                break
        return Seen.all_of([as_seen(one.model_dump()) for one in taken])


def _told_by(watches: Sequence[dict[str, Any]], contract: Contract) -> tuple[str, str]:
    """The output that a monitor shows, and the feedback that is its truth."""
    specs = [watch["spec"] for watch in watches]
    output = specs[0]["output"] if specs else next(iter(contract.outputs))
    return output, specs[0]["label"] if specs else output


def _refuse_unseen(condition: Condition, contract: Contract) -> None:
    """Of a field that is left out of windows nothing would ever be judged."""
    field = {**contract.inputs, **contract.outputs}.get(condition.on)
    if condition.measure not in FAIRNESS and field is not None and field.private == "omit":
        raise UsageError(
            f"{condition.text!r} is about {condition.on!r}, which the contract leaves out of all "
            'that is kept (private="omit"); "hash" keeps enough to watch it'
        )


def _quality(outcomes: Sequence[Outcome], output: str, label: str) -> list[dict[str, Any]]:
    """Measures on feedback over time, in up to 50 blocks of answers, oldest first."""
    known = paired(outcomes, output, label)
    size, names = max(20, -(-len(known) // MOST_POINTS)), measures(known)
    found = []
    for end in range(len(known) % size + size, len(known) + 1, size):
        some = known.between(end - size, end)
        mean = None if known.texts else float(some.truth.mean())
        told = {name: measured(name, some) for name in names}
        found.append({"answers": end, "labels": size, "mean": mean, **told})
    return found


def _refuse_no_group(condition: Condition, answers: Sequence[str | None]) -> None:
    """Groups of people are told apart by what they are, and not by what is answered to them."""
    if condition.on in ("any", "inputs", "outputs", *answers):
        raise UsageError(
            f"{condition.text!r} is about {condition.on!r}, which is no group of people: name what "
            'the feedback says of them, as rt.feedback(id, {"sex": "f", ...}) does, or an input'
        )


def refuse_no_measure(condition: Condition, output: str, field: Field) -> None:
    """Chances have every measure, classes are right or wrong, numbers are off by some amount."""
    chances = isinstance(field, Number) and field.limits[0] >= 0 and field.limits[1] <= 1
    texts = isinstance(field, Text) or (isinstance(field, Category) and field.value_type is str)
    classes = isinstance(field, Boolean | Category | Integer | Text)
    measure = condition.measure
    if isinstance(field, Tensor):
        advice = "name another output"
    elif chances or measure == ERROR_DRIFT:
        return
    elif measure in ("mae", "rmse"):
        if not texts:
            return
        advice = "write accuracy < 0.8"
    elif measure == "accuracy" and classes:
        return
    else:
        advice = "write accuracy < 0.8" if classes else "write mae > 10 or rmse > 10"
        advice += ", or, if it is a chance, declare it as Number(min=0, max=1)"
    raise UsageError(
        f"{condition.text!r}: output {output!r} is {field.describe()}, which has no {measure}; "
        f"{advice}"
    )


def begin_as(
    begin: Callable[[Any, dict[str, Any], Asked], dict[str, Any]],
) -> Callable[[Any, Caller, str], str]:
    """How a watch starts runs: as its author, under an operation id of its own."""

    def start(spec: Any, caller: Caller, operation_id: str) -> str:
        told = {"spec": spec.model_dump(mode="json", exclude={"cause"})}
        asked = Asked.of(caller, "start_run", told, operation_id)
        return str(begin(spec, {}, asked)["id"])

    return start
