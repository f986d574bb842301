"""Commands about feedback: from people, in bulk, and from event sources.

Feedback is not in the audit log: it decides nothing, and comes as often as answers.

**Events.** `POST /api/v1/endpoints/{name}/feedback/events` takes CloudEvents 1.0: one in structured
mode (`application/cloudevents+json`), one in binary mode (`ce-*` headers, JSON body), or a batch
(`application/cloudevents-batch+json`). `data` is `{"request_id": text, "values": {...}}`; an event
whose data lack `request_id` is about the request that is its `subject`.

| answer | what it means | what a deliverer does with it |
| --- | --- | --- |
| 200 | on disk, what can be kept; a batch is told which events were refused, and why | goes on |
| 400, 413, 415 | never to be kept as it is | Knative, EventBridge: no retry, dead letters |
| 404 | no such endpoint | the same |
| 401, 403 | the key is not good for it | the same |
| 503 | not now, nothing was kept | delivers again |

A batch is answered 200 even if every event in it was refused: to refuse the whole would have the
good ones delivered again for ever. Deliverers that stop at a 4xx instead of setting an event aside
(Debezium Server, Kafka Connect) ask with `?refused=report`: then one event alone is answered so
too. What was refused is counted in `aios_feedback_events_total{result="refused"}` and logged.
"""

import logging
from collections.abc import Callable
from typing import Any

from aios.contracts import Contract
from aios.errors import UsageError
from aios.kernel.commands import Asked, Commands
from aios.records import Record
from aios.records.cloudevents import CloudEvent, read_event
from aios.registry import FeedbackEvent, Observed, Registry, check_given

MOST_KPI = 1e15
MOST_FEEDBACK = 10_000
"""Entries of one call: what is stored in a few seconds."""
MOST_TOLD = 2_000
"""Refused entries that one answer tells of; all are counted."""

CountKpi = Callable[[str, list[dict[str, Any]]], int]
logger = logging.getLogger("aios.kernel")


class Feedback(Record):
    """What turned out about answers: `{"request_id", "values": {...}}` each; with `kpi` and `arm`
    it also feeds the rules of a running rollout. `partial` takes what is good; without it one
    bad entry refuses all."""

    endpoint: str
    answers: list[dict[str, Any]]
    partial: bool = False


class FeedbackEvents(Record):
    """CloudEvents in their JSON format."""

    endpoint: str
    events: list[Any]


class FeedbackCommands:
    """What becomes of feedback.

    Args:
        count_kpi: takes business values for a running rollout; see `Observations.feedback`.
    """

    def __init__(
        self,
        registry: Registry,
        observed: Observed,
        count_kpi: CountKpi,
    ) -> None:
        self._registry = registry
        self._observed = observed
        self._count_kpi = count_kpi
        self.commands: Commands = {
            "feedback": (Feedback, self._feedback),
            "feedback_events": (FeedbackEvents, self._feedback_events),
        }

    def _feedback(self, request: Feedback, asked: Asked) -> dict[str, Any]:
        contract = self._contract(request.endpoint)
        _refuse_too_many(request.answers)
        entries: list[tuple[str, dict[str, Any]]] = []
        kpi: list[dict[str, Any]] = []
        problems: list[dict[str, Any]] = []
        for place, answer in enumerate(request.answers):
            try:
                request_id, values = _entry(answer)
                _refuse_unfit(contract, request_id, values)
                business = _business(answer)
                if business and request.partial:
                    self._count_kpi(request.endpoint, business)
            except UsageError as error:
                if not request.partial:
                    raise
                problems.append({"place": place, "reason": error.message})
                continue
            entries.append((request_id, values))
            kpi += business
        if kpi and not request.partial:
            self._count_kpi(request.endpoint, kpi)
        taken = self._observed.add_feedback(request.endpoint, entries, asked.actor)
        if not request.partial:
            return {"taken": taken}
        return {"taken": taken, "unchanged": len(entries) - taken, **_told(problems)}

    def _feedback_events(self, request: FeedbackEvents, asked: Asked) -> dict[str, Any]:
        contract = self._contract(request.endpoint)
        _refuse_too_many(request.events)
        events: list[FeedbackEvent] = []
        problems: list[dict[str, Any]] = []
        for place, given in enumerate(request.events):
            try:
                event = _feedback_of(read_event(given))
                _refuse_unfit(contract, event.request_id, dict(event.values))
            except UsageError as error:
                problems.append({"place": place, **_coordinates(given), "reason": error.message})
            else:
                events.append(event)
        found = self._observed.add_feedback_events(request.endpoint, events, asked.actor)
        if problems:
            self._observed.refused_feedback_events(request.endpoint, len(problems))
            logger.warning(
                "%d feedback events for %s refused; the first: %s",
                *(len(problems), request.endpoint, problems[0]),
            )
        return {**found, **_told(problems)}

    def _contract(self, endpoint: str) -> Contract:
        """That of the version that serves.

        Raises:
            UnknownEndpoint: it is not deployed.
        """
        state = self._registry.endpoint(endpoint)
        version = self._registry.version(f"{state.spec.model}:{state.stable_version}")
        return Contract.from_json(version.contract)


def _refuse_too_many(entries: list[Any]) -> None:
    if len(entries) > MOST_FEEDBACK:
        raise UsageError(f"{len(entries):,} entries at once; give at most {MOST_FEEDBACK:,} a call")


def _told(problems: list[dict[str, Any]]) -> dict[str, Any]:
    return {"refused": len(problems), "problems": problems[:MOST_TOLD]}


def _coordinates(event: Any) -> dict[str, Any]:
    """What an event that was refused calls itself, as far as it does."""
    found = event if isinstance(event, dict) else {}
    return {name: str(found[name])[:200] for name in ("source", "id") if name in found}


def _feedback_of(event: CloudEvent) -> FeedbackEvent:
    data = event.data
    if not isinstance(data, dict) or data.keys() - {"request_id", "values"}:
        raise UsageError(
            'the data of a feedback event are {"request_id": text, "values": {"approve": 1}}; got '
            f"{data!r:.120}"
        )
    request_id, values = check_given(data.get("request_id", event.subject), data.get("values"))
    return FeedbackEvent(event.source, event.id, request_id, values, event.time_s)


def _entry(answer: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    unknown = answer.keys() - {"request_id", "values", "arm", "version", "kpi"}
    values = answer.get("values", {})
    if unknown or not isinstance(values, dict):
        raise UsageError(
            'feedback is {"request_id": text, "values": {"approve": 1}} for each answer; got '
            f"{str(answer)[:120]}"
        )
    if "kpi" in answer:
        values = {**values, "kpi": answer["kpi"]}
    return check_given(answer.get("request_id"), values)


def _business(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What an entry tells the rules of a rollout, if it does."""
    if "kpi" not in answer or "arm" not in answer:
        return []
    return [{name: answer.get(name) for name in ("request_id", "arm", "version", "kpi")}]


def _refuse_unfit(contract: Contract, request_id: str, values: dict[str, Any]) -> None:
    """A label that is named as an output must be something that the output could have been."""
    kpi = values.get("kpi")
    if kpi is not None and (isinstance(kpi, bool | str) or abs(kpi) > MOST_KPI):
        raise UsageError(
            f"feedback on {request_id[:60]!r}: kpi is {kpi!r:.60}; it is a number of at most "
            f"{MOST_KPI:g}, the business value of the answer"
        )
    for name, value in values.items():
        field = contract.outputs.get(name)
        if field is None or value is None:
            continue
        low, high = getattr(field, "min", None), getattr(field, "max", None)
        if low is None and high is None:
            continue
        if not isinstance(value, bool | int | float):
            told = "no number"
        elif (low is not None and value < low) or (high is not None and value > high):
            told = f"outside {low} to {high}"
        else:
            continue
        raise UsageError(
            f"feedback on {request_id[:60]!r}: {name} is {value!r:.60}, which for the contract is "
            f"{told}"
        )
