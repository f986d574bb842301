"""`rt.watch` and `rt.feedback`, and what they give."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from aios.errors import UsageError
from aios.monitoring.conditions import Family, parse_condition
from aios.presentation import Shown, moment
from aios.records import DataSource
from aios.records.watching import WatchSpec
from aios.rollout import BlueGreen, Canary, Shadow
from aios.runtime.objects import Live
from aios.runtime.tables import Look
from aios.runtime.training import run_spec
from aios.runtime.transport import Transport

SUMMARY_CHARACTERS = 100
"""Of how a watch stands, in a list of them; all of it is in the watch's own table."""


class Retrain:
    """What a watch starts: `aios.Retrain(recipe, rollout=aios.Canary())`.

    Args:
        recipe: a subclass of `aios.Recipe`; its text is kept with the watch.
        data: as for `rt.retrain`; by default what the endpoint answered, joined with feedback.
        rollout: how the new version is rolled out on the watched endpoint once it may serve; None
            only registers it. `aios.Canary(approve_before=(1.0,))` asks people first.
        settings: `search`, `trials`, `seed`, `resources`, `tracking_uri` and limits, as for
            `rt.start_retrain`.
    """

    def __init__(
        self,
        recipe: Any,
        *,
        data: Any = None,
        rollout: Canary | BlueGreen | Shadow | None = None,
        **settings: Any,
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.rollout = rollout
        self.settings = settings

    def __repr__(self) -> str:
        return f"Retrain({getattr(self.recipe, '__name__', self.recipe)})"


class WatchStatus(Shown):
    """A watch at one moment.

    Attributes:
        alarms: conditions that hold now, with what was found.
        findings: the newest finding of each condition.
        run: the id of the retrain that was started last; None if none was.
        last: how that retrain stands: `status`, `stage`, `version`, `error`.
        held_back: why an alarm starts no retrain just now.
        undelivered: alerts that wait longer than they should, or that were given up lately, and
            why: `sink`, `alert`, `state`, `attempts`, `since_s`, `problem`.
        fields: all of it, as plain values.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        state = fields["state"]
        self.id: str = fields["id"]
        self.endpoint: str = fields["spec"]["endpoint"]
        self.alarms: list[dict[str, Any]] = state["alarms"]
        self.findings: list[dict[str, Any]] = state["findings"]
        self.run: str | None = state["run"]
        self.last: dict[str, Any] | None = fields["run"]
        self.held_back: str | None = state["held_back"]
        self.problem: str | None = fields["problem"]
        self.undelivered: list[dict[str, Any]] = fields["undelivered"]
        self.fields = fields

    @property
    def summary(self) -> str:
        """One line: alarm or calm, and what is done about it."""
        if self.problem:
            return f"cannot look: {self.problem}"
        state = self.fields["state"]
        looks = state["looks"] + state["row_looks"] + state["label_looks"]
        told = f"calm after {looks} looks"
        if self.alarms:
            told = f"{len(self.alarms)} alarm{'s' if len(self.alarms) > 1 else ''}"
        run = ""
        if self.last is not None:
            why = f" ({self.last['error']})" if self.last["error"] else ""
            run = f"; retrain {self.run} {self.last['status']}{why}"
        return f"{told}{run}{f'; {self.held_back}' if self.held_back else ''}{self._untold()}"

    def _untold(self) -> str:
        """Why people were not told, if so."""
        if not self.undelivered:
            return ""
        last, count = self.undelivered[-1], len(self.undelivered)
        return f"; {count} alerts not delivered, the last to {last['sink']}: {last['problem']}"

    def _shown(self) -> Look:
        known = {finding["condition"]: finding for finding in self.findings}
        ringing = {alarm["condition"]: alarm for alarm in self.alarms}
        rows = []
        for condition in self.fields["spec"]["conditions"]:
            text = condition["text"]
            finding = known.get(text, {})
            since = moment(ringing[text]["since_s"]) if text in ringing else ""
            rows.append(
                [text, finding.get("state", "not looked at yet"), since, finding.get("reason")]
            )
        title = f"watch {self.id} on {self.endpoint}: {self.summary}"
        return title, ["condition", "state", "alarm since", "found"], rows


class Watch(Live):
    """Something that is watched. Holds only its id; every call asks the runtime."""

    def __init__(self, transport: Transport, watch_id: str, endpoint: str) -> None:
        self._transport = transport
        self.id = watch_id
        self.endpoint = endpoint

    def status(self) -> WatchStatus:
        """How it stands.

        Raises:
            UsageError: it was taken off.
        """
        for found in self._transport.get("/api/v1/watches", endpoint=self.endpoint):
            if found["id"] == self.id:
                return WatchStatus(found)
        raise UsageError(f"watch {self.id} was taken off")

    def end(self) -> None:
        """Take it off. What it found and started stays.

        Raises:
            IllegalTransition: it was taken off before.
        """
        self._transport.change("DELETE", f"/api/v1/watches/{self.id}")

    def _named(self) -> str:
        return f"watch {self.id} at {self._transport.address}"

    def _now(self) -> Shown:
        return self.status()


def _each(texts: Any) -> Sequence[Any]:
    """One condition or several; what is neither is told by who parses it."""
    several = isinstance(texts, Sequence) and not isinstance(texts, str)
    return texts if several else [texts]


def find_watch(transport: Transport, watch_id: str) -> Watch:
    """See `Runtime.get_watch`."""
    found = {one["id"]: one["spec"]["endpoint"] for one in transport.get("/api/v1/watches")}
    if watch_id not in found:
        there = ", ".join(found) or "none"
        raise UsageError(f"no watch {watch_id!r:.80} is active; there are: {there}")
    return Watch(transport, watch_id, found[watch_id])


class Watches(Shown):
    """All watches of an endpoint, or of all."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = [WatchStatus(row) for row in rows]

    def __iter__(self) -> Iterator[WatchStatus]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> WatchStatus:
        return self.rows[index]

    def _shown(self) -> Look:
        rows = [
            [
                row.id,
                row.endpoint,
                "; ".join(one["text"] for one in row.fields["spec"]["conditions"]),
                textwrap.shorten(row.summary, SUMMARY_CHARACTERS, placeholder=" ..."),
                row.fields["then"],
            ]
            for row in self.rows
        ]
        told = "watches" if rows else "watches: none"
        return told, ["watch", "endpoint", "rings when", "state", "then"], rows


def add_watch(
    transport: Transport,
    endpoint: str,
    families: Mapping[Family, str | Sequence[str]],
    *,
    schedule: str | None,
    then: Retrain | None,
    **settings: Any,
) -> Watch:
    """See `Runtime.watch`."""
    conditions = [
        parse_condition(text, family) for family, texts in families.items() for text in _each(texts)
    ]
    if then is not None and not isinstance(then, Retrain):
        raise UsageError(f"then is {then!r:.60}; give aios.Retrain(recipe)")
    known = WatchSpec.model_fields.keys() - {"endpoint", "conditions", "schedule", "then"}
    unknown = settings.keys() - known
    if unknown:
        raise UsageError(
            f"no setting {', '.join(sorted(unknown))} of a watch; there are "
            f"{', '.join(sorted(known))}"
        )
    run = None if then is None else _spec_of(transport, endpoint, then)
    try:
        spec = WatchSpec(
            endpoint=endpoint, conditions=tuple(conditions), schedule=schedule, then=run, **settings
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        told = fault["msg"].removeprefix("Value error, ")
        raise UsageError(f"{f'{where}: ' if where else ''}{told}") from None
    found = transport.change("POST", "/api/v1/watches", {"spec": spec.model_dump(mode="json")})
    return Watch(transport, found["id"], endpoint)


def _spec_of(transport: Transport, endpoint: str, then: Retrain) -> Any:
    model = transport.get(f"/api/v1/endpoints/{endpoint}")["model"]
    data = then.data
    if data is None:
        data = DataSource(kind="predictions", location=endpoint)
    rollout = None if then.rollout is None else (endpoint, then.rollout)
    return run_spec(transport, model, then.recipe, data, rollout=rollout, **then.settings)


def send_feedback(
    transport: Transport,
    request_id: str | Mapping[str, Mapping[str, Any]],
    values: Mapping[str, Any] | None,
    endpoint: str | None,
) -> int:
    """See `Runtime.feedback`."""
    if isinstance(request_id, Mapping):
        if values is not None:
            raise UsageError("give a request id and its values, or one {request id: values}")
        every = dict(request_id)
    elif values is None:
        raise UsageError(f"feedback on {request_id!r:.60} needs values, such as {{'approve': 1}}")
    elif not isinstance(request_id, str):
        raise UsageError(
            f"feedback is on the request id of an answer, a text, not on {request_id!r:.60}; for "
            "an answer give answer.request_id, for many {request id: values}"
        )
    else:
        every = {request_id: values}
    for one, given in every.items():
        _refuse_what_json_changes(one, given)
    name = endpoint or _only_endpoint(transport)
    answers = [{"request_id": one, "values": dict(given)} for one, given in every.items()]
    taken = 0
    for start in range(0, len(answers), _AT_ONCE):
        body = {"answers": answers[start : start + _AT_ONCE]}
        taken += transport.change("POST", f"/api/v1/endpoints/{name}/feedback", body)["taken"]
    return taken


_AT_ONCE = 2_000


def _refuse_what_json_changes(request_id: Any, values: Any) -> None:
    """What would reach the runtime as something else: NaN as null, which would undo a label."""
    if not isinstance(values, Mapping):
        raise UsageError(
            f"feedback on {request_id!r:.60} is an object such as {{'approve': 1}}, not "
            f"{values!r:.60}"
        )
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(
                f"feedback on {request_id!r:.60}: {name!r:.60} is {value}; values are finite "
                "numbers, texts, true, false or None"
            )


def _only_endpoint(transport: Transport) -> str:
    names = [found["name"] for found in transport.get("/api/v1/endpoints")]
    if len(names) != 1:
        there = ", ".join(names) or "none"
        raise UsageError(f"say which endpoint answered, endpoint=...; deployed: {there}")
    return str(names[0])
