"""The part of the runtime that acts on events: `rt.on`, `rt.emit`, dead letters."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from aios.errors import UsageError
from aios.events.filters import check_key, parse_filter
from aios.flows.writing import Flow
from aios.presentation import Shown, duration, moment
from aios.records import Autoscale
from aios.records.cloudevents import CloudEvent, as_json
from aios.records.events import (
    DeadLetter,
    Sink,
    Source,
    SubscriptionSpec,
    check_sink,
    check_source,
)
from aios.runtime.agents import define_agent
from aios.runtime.flows import define_flow, no_flow
from aios.runtime.tables import Look, Table
from aios.runtime.transport import Transport
from aios.store.canonical import plain

_EACH = 1_000
"""Dead letters of one call of `replay`."""


class SubscriptionStatus(Shown):
    """A subscription at one moment.

    Attributes:
        waiting: events in the inbox that were not acted on; `oldest_s` is the age of the oldest.
        lag: messages at the source that were not read; None if it does not say.
        readers: processes that read; `restarts` counts those that began anew.
        dead_letters: events that were set aside.
        counts: events since the kernel began: taken, repeated, filtered, refused, unreadable, done,
            dead.
        problem: why nothing is read or acted on, if so.
        path: where a webhook is posted to.
        fields: all of it, as plain values.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.id: str = fields["id"]
        self.active: bool = fields["active"]
        self.waiting: int = fields["waiting"]
        self.oldest_s: float = fields["oldest_s"]
        self.lag: int | None = fields["lag"]
        self.readers: int = fields["readers"]
        self.restarts: int = fields["restarts"]
        self.dead_letters: int = fields["dead_letters"]
        self.counts: dict[str, int] = fields["counts"]
        self.problem: str | None = fields["problem"]
        self.path: str | None = fields["path"]
        self.fields = fields

    @property
    def state(self) -> str:
        """One word, or why nothing is read or acted on."""
        if not self.active:
            return "off"
        return "on" if self.problem is None else f"problem: {self.problem}"

    def _shown(self) -> Look:
        told = {
            "source": self.fields["source"],
            "acts": self.fields["target"],
            "to": self.fields["to"],
            "key": self.fields["key"],
            "filter": self.fields["filter"],
            "posted to": self.path,
            "lag": self.lag,
            "readers": self.readers,
            "waiting": self.waiting,
            "oldest": duration(self.oldest_s) if self.waiting else None,
            **self.counts,
            "dead letters": self.dead_letters,
        }
        title = f"subscription {self.id}: {self.state}"
        return title, ["what", "value"], [[k, v] for k, v in told.items() if v is not None]


class Subscriptions(Shown):
    """All subscriptions, oldest first."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = [SubscriptionStatus(row) for row in rows]

    def __iter__(self) -> Iterator[SubscriptionStatus]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | str) -> SubscriptionStatus:
        """By place, or by id."""
        if isinstance(which, int):
            return self.rows[which]
        found = {row.id: row for row in self.rows}
        if which not in found:
            there = ", ".join(found) or "none"
            raise UsageError(f"no subscription {which!r:.80}; there are: {there}")
        return found[which]

    def _shown(self) -> Look:
        rows = [
            [
                row.id,
                row.fields["source"],
                row.fields["target"],
                row.state,
                row.lag,
                row.waiting,
                row.counts["done"],
                row.dead_letters,
            ]
            for row in self.rows
        ]
        headings = ["id", "source", "acts", "state", "lag", "waiting", "done", "dead letters"]
        return f"subscriptions{'' if rows else ': none'}", headings, rows


class DeadLetters(Shown):
    """Events that were set aside, oldest first. `rt.replay(these)` acts on them again."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = [DeadLetter.model_validate(row) for row in rows]

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> DeadLetter:
        return self.rows[place]

    def _shown(self) -> Look:
        rows = [
            [
                row.id,
                row.subscription,
                (row.event or {}).get("id", row.coordinates)[:60],
                row.attempts,
                row.reason[:200],
                moment(row.at_s),
            ]
            for row in self.rows
        ]
        headings = ["id", "subscription", "event", "attempts", "reason", "at"]
        return f"dead letters{'' if rows else ': none'}", headings, rows


Letters = int | DeadLetter | Iterable[int | DeadLetter]


def _every(letters: Letters) -> list[int | DeadLetter]:
    """The dead letters, or their ids.

    Raises:
        UsageError: one of them is neither.
    """
    several = isinstance(letters, Iterable) and not isinstance(letters, str | bytes | DeadLetter)
    every: list[Any] = list(letters) if several else [letters]  # type: ignore[arg-type]
    for one in every:
        if not isinstance(one, int | DeadLetter) or isinstance(one, bool):
            raise UsageError(f"{one!r:.60} is no dead letter; give rows of rt.dead_letters()")
    return every


class Eventful:
    """What comes in is acted on; what goes out is sent."""

    _transport: Transport

    def on(
        self,
        source: Source,
        flow: Any = None,
        *,
        endpoint: str | None = None,
        agent: Any = None,
        to: Sink | None = None,
        key: str | None = None,
        filter: str | None = None,
        id: str | None = None,
        consumers: int | Autoscale = 1,
    ) -> SubscriptionStatus:
        """Act on each event of a source from now on: begin a flow, once, ask an endpoint, or let an
        agent handle it.

        An event is a CloudEvent 1.0; any other JSON becomes the data of one. It is acknowledged to
        its source once it is on disk here, and known by its coordinates there, so that a repeat
        changes nothing. One that cannot be read is set aside at once, one that cannot be acted on
        after 5 attempts: `rt.dead_letters()`. Asked for again just so, it is the same subscription.

        Args:
            source: `aios.Webhook`, `Kafka`, `RabbitMQ`, `PostgresCDC`, `Schedule` or `Files`.
            flow: begun with the event as its argument, a dict in CloudEvents' JSON format.
            endpoint: asked with the event's data as a record of its contract, by the event's key,
                so that a canary splits by it; `to` gets the answer, `type` is `aios.answer`.
            agent: a class with `@aios.agent`, whose text is sent along, or the name of a known one.
                The event is a message to the agent whose id is the event's key, as a flow gets it;
                one that is not there yet is spawned, without scopes.
            key: path in the event's data, such as `order.customer`; events of one key are acted on
                one after the other; of flows, begun so. Default: the envelope's subject (of Kafka
                the message's key).
            filter: such as `amount > 100 and event.type = "order.created"`; others are passed over.
            id: default: what acts and the kind of the source, `triage-kafka`.
            consumers: how many processes read, or `aios.Autoscale(1, 4)` by the source's lag.

        Raises:
            UsageError: an argument cannot be taken, or a secret is not on the kernel's machine.
            UnknownName: there is no such flow, endpoint or agent.
            IllegalTransition: the id is on, with something else.
        """
        check_source(source)
        if [flow, endpoint, agent].count(None) != 2:
            raise UsageError(
                "rt.on(source, flow), rt.on(source, endpoint=...), rt.on(source, agent=...): "
                "give one of them"
            )
        if to is not None:
            check_sink(to)
        if key is not None:
            check_key(key)
        if filter is not None:
            parse_filter(filter)
        scale = Autoscale(consumers, consumers) if isinstance(consumers, int) else consumers
        if isinstance(flow, Flow):
            flow.refuse_unfit(({},), {})  # it is begun with the event alone
        told = None if flow is None else self._flow_ref(flow)
        handles = None if agent is None else self._agent_name(agent)
        acts = told or handles or str(endpoint)
        name = id if id is not None else f"{acts.partition(':')[0]}-{_kind(source)}"
        try:
            spec = SubscriptionSpec(
                id=name,
                source=source,
                flow=told,
                endpoint=endpoint,
                agent=handles,
                to=to,
                key=key,
                filter=filter,
                consumers=scale,
            )
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise UsageError(f"{where}: {fault['msg']} (got {fault['input']!r:.80})") from None
        body = {"spec": spec.model_dump(mode="json")}
        made = self._transport.change("POST", "/api/v1/subscriptions", body)
        return self.subscriptions()[str(made["id"])]

    def off(self, subscription: str | SubscriptionStatus) -> None:
        """Take nothing more of a source, and begin nothing more. What waits in the inbox stays, and
        goes on when the same id is on again.

        Raises:
            UnknownName: there is no such subscription.
            IllegalTransition: it is off already.
        """
        name = getattr(subscription, "id", subscription)
        if not isinstance(name, str) or not name:
            raise UsageError(f"{subscription!r:.60} is no subscription; rt.subscriptions() has all")
        self._transport.change("DELETE", f"/api/v1/subscriptions/{name}")

    def subscriptions(self) -> Subscriptions:
        """What is acted on, and how each subscription stands; those too that are off."""
        return Subscriptions(self._transport.get("/api/v1/subscriptions"))

    def outbox(self) -> Table:
        """Sinks to which events are still to be sent: how many wait, how old the oldest is, how
        often it was tried and what went wrong last. Empty when everything has arrived."""
        rows = self._transport.get("/api/v1/outbox")
        shown = [{**one, "oldest": duration(one["oldest_s"])} for one in rows]
        return Table("outbox", shown, ("sink", "waiting", "oldest", "attempts", "problem"))

    def dead_letters(self, subscription: str | None = None, *, limit: int = 1_000) -> DeadLetters:
        """The newest events that were set aside, each with the reason, and the trace of the last
        attempt. Those of `outbox` could not be sent."""
        path = "/api/v1/dead-letters"
        return DeadLetters(self._transport.get(path, subscription=subscription, limit=limit))

    def replay(self, letters: Letters) -> int:
        """Act again on events that were set aside, one or many; returns how many. One that had not
        the key which its subscription named has that which it names by now.

        Args:
            letters: dead letters, or their ids. Of rows, those that could not be read are left out,
                as nothing that is done here makes them readable: their source has to send them
                again.

        Raises:
            UnknownName: there is no such dead letter.
            IllegalTransition: one of them could not be read, or was replayed already; of the
                thousand that it is in none is replayed.
        """
        every = _every(letters)
        if not isinstance(letters, DeadLetter):
            every = [one for one in every if isinstance(one, int) or one.event is not None]
        return self._by_thousands("replay", "replayed", every)

    def discard(self, letters: Letters) -> int:
        """Forget events that were set aside, one or many, for good; returns how many. What was told
        of them stays in the audit log by its number alone.

        Args:
            letters: dead letters, or their ids.

        Raises:
            UnknownName: there is no such dead letter.
            IllegalTransition: one of them was replayed; of the thousand that it is in none goes.
        """
        return self._by_thousands("discard", "discarded", _every(letters))

    def give_up(self, to: Sink) -> int:
        """Let nothing wait for a sink any more: what does is set aside, as dead letters of
        `"outbox"`, to be replayed once the sink is there, or discarded. What is being sent just now
        may still arrive. Returns how many.
        """
        check_sink(to)
        body = {"sink": to.model_dump(mode="json")}
        return int(self._transport.change("POST", "/api/v1/outbox/give-up", body)["set_aside"])

    def _by_thousands(self, what: str, done: str, letters: list[int | DeadLetter]) -> int:
        ids, count = [one if isinstance(one, int) else one.id for one in letters], 0
        for place in range(0, len(ids), _EACH):
            body = {"ids": ids[place : place + _EACH]}
            count += int(self._transport.change("POST", f"/api/v1/dead-letters/{what}", body)[done])
        return count

    def emit(
        self,
        type: str,
        data: Any = None,
        *,
        to: Sink,
        id: str | None = None,
        source: str = "aios",
        subject: str | None = None,
        key: str | None = None,
    ) -> str:
        """Send an event; it is on disk when this returns, and sent until its sink has it, in order.

        Args:
            type: such as `order.refunded`.
            data: anything that is JSON.
            to: `aios.Webhook(url=...)`, `Kafka`, `RabbitMQ` or `Files`.
            id: the event's; told again with the same `source` and id, it is sent once. Give one
                where a step may run twice.
            key: keeps the order at the sink, as Kafka's message key.

        Returns:
            The event's id.
        """
        check_sink(to)
        try:
            event = CloudEvent(
                id=id if id is not None else uuid4().hex,
                source=source,
                type=type,
                subject=subject,
                data=data,
            )
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise UsageError(f"emit: {where}: {fault['msg']}") from None
        try:
            told = as_json(event)
        except PydanticSerializationError as error:
            raise UsageError(f"emit: data is not JSON: {error}"[:300]) from None
        plain(told.get("data"), "emit: data")
        body = {"sink": to.model_dump(mode="json"), "event": told, "key": key}
        return str(self._transport.change("POST", "/api/v1/events", body)["id"])

    def _flow_ref(self, flow: Any) -> str:
        """The name of a flow as the kernel knows it."""
        if isinstance(flow, str):
            return flow
        if not isinstance(flow, Flow):
            raise no_flow(flow)
        define_flow(self._transport, flow)
        return flow.name

    def _agent_name(self, agent: Any) -> str:
        """The name of an agent as the kernel knows it."""
        return agent if isinstance(agent, str) else define_agent(self._transport, agent)[0]


def _kind(source: Source) -> str:
    return source.kind.replace("_", "-")
