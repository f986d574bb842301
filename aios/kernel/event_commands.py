"""Commands and queries about events."""

from collections.abc import Callable
from typing import Any

from pydantic import Field

from aios.clock import Clock
from aios.config import Settings
from aios.errors import IllegalTransition, UnknownName, UsageError
from aios.events.filters import check_key, parse_filter
from aios.events.reading import kept_key
from aios.events.secrets import key_of_webhook, secret
from aios.kernel.commands import Asked, Commands, Queries
from aios.kernel.dispatcher import Starter, Teller
from aios.kernel.event_metrics import EventMetrics
from aios.kernel.event_readers import ALONE
from aios.kernel.events import Events
from aios.kernel.requests import Nothing, OfId
from aios.records import Autoscale, Record
from aios.records.cloudevents import read_event
from aios.records.events import (
    SINK,
    Sink,
    Subscription,
    SubscriptionSpec,
    Webhook,
    check_sink,
    check_source,
)
from aios.registry import Registry
from aios.registry.subscriptions import OUTBOX
from aios.store.database import Database

MOST_REPLAYED = 10_000


class Subscribe(Record):
    """A subscription as wanted."""

    spec: SubscriptionSpec


class Emit(Record):
    """An event to send, in its JSON format; `key` keeps its order at the sink."""

    sink: Sink
    event: dict[str, Any]
    key: str | None = Field(default=None, max_length=500)


class Letters(Record):
    """Dead letters to act on again, or to forget."""

    ids: list[int] = Field(min_length=1, max_length=MOST_REPLAYED)


class GiveUp(Record):
    """A sink for which nothing is to wait any more."""

    sink: Sink


class WebhookMessage(Record):
    """What was posted to a webhook: the body is the text whose bytes were signed."""

    subscription: str = Field(max_length=200)
    headers: dict[str, str]
    body: str


class DeadLettersOf(Record):
    """The newest `limit`, of one subscription or of all."""

    subscription: str | None = None
    replayed: bool = False
    limit: int = Field(default=1_000, ge=1, le=MOST_REPLAYED)


class EventCommands:
    """What people and programs ask of events, and what goes on without being asked (`events`).

    Args:
        told: called after a key was made, so that whoever checks keys learns of it.
        starter: begins flows.
        teller: tells agents.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        database: Database,
        clock: Clock,
        told: Callable[[], None],
        starter: Starter,
        teller: Teller,
    ) -> None:
        self._registry = registry
        self._home = settings.home
        self.events = Events(settings, registry, database, clock, told, starter, teller)
        self.metrics = EventMetrics(self.events, clock)
        self.commands: Commands = {
            "subscribe": (Subscribe, self._subscribe),
            "unsubscribe": (OfId, self._unsubscribe),
            "replay": (Letters, self._replay),
            "discard": (Letters, self._discard),
            "give_up": (GiveUp, self._give_up),
            "emit": (Emit, self._emit),
            "take_webhook": (WebhookMessage, self._take_webhook),
        }
        self.queries: Queries = {
            "subscriptions": (Nothing, self._subscriptions),
            "dead_letters": (DeadLettersOf, self._dead_letters),
            "outbox": (Nothing, self._outbox),
        }

    # -- commands ---------------------------------------------------------------------

    def _subscribe(self, request: Subscribe, asked: Asked) -> dict[str, Any]:
        spec = self._checked(request.spec)
        told = {"source": spec.source.shown, "target": spec.target}
        with asked.change(self._registry, "subscribe", spec.id, **told) as change:
            if change.done is not None:
                return change.done
            known = {one.id: one for one in change.subscriptions(off=True)}.get(spec.id)
            if known is not None:
                _refuse_other(known, spec)
            change.subscribe(spec)
            change.remember({"id": spec.id})
        self.events.changed()
        return {"id": spec.id}

    def _unsubscribe(self, request: OfId, asked: Asked) -> dict[str, Any]:
        with asked.change(self._registry, "unsubscribe", request.id) as change:
            if change.done is not None:
                return change.done
            if not change.unsubscribe(request.id).active:
                raise IllegalTransition(f"subscription {request.id!r} is off already")
            change.remember({"id": request.id})
        self.events.changed()
        return {"id": request.id}

    def _replay(self, request: Letters, asked: Asked) -> dict[str, Any]:
        told = {"count": len(request.ids), "first": request.ids[0]}
        with asked.change(self._registry, "replay", "dead letters", **told) as change:
            if change.done is not None:
                return change.done
            count = change.replay(request.ids, self._key)
            change.remember({"replayed": count})
        return {"replayed": count}

    def _discard(self, request: Letters, asked: Asked) -> dict[str, Any]:
        told = {"count": len(request.ids), "first": request.ids[0]}
        with asked.change(self._registry, "discard", "dead letters", **told) as change:
            if change.done is not None:
                return change.done
            count = change.discard(request.ids)
            change.remember({"discarded": count})
        return {"discarded": count}

    def _give_up(self, request: GiveUp, asked: Asked) -> dict[str, Any]:
        with asked.change(self._registry, "give_up", request.sink.shown) as change:
            if change.done is not None:
                return change.done
            count = change.give_up(request.sink, f"{asked.actor} gave its sink up")
            change.remember({"set_aside": count})
        return {"set_aside": count}

    def _key(self, event: dict[str, Any], subscription: str) -> str | None:
        """The key of a dead letter that had not the one its subscription named."""
        path = self._registry.subscription(subscription).spec.key
        try:
            return kept_key(event, path)
        except UsageError as error:
            raise IllegalTransition(
                f"event {event['id']!r:.80}: {error.message}. Take subscription {subscription!r} "
                "off, and on again with another key=, or leave this one out"
            ) from None

    def _emit(self, request: Emit, asked: Asked) -> dict[str, Any]:
        check_sink(request.sink)
        self._check_secrets(request.sink)
        event = read_event(request.event)
        self.events.emit(request.sink, event, request.key)
        return {"id": event.id}

    def _take_webhook(self, request: WebhookMessage, asked: Asked) -> dict[str, Any]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        new = self.events.take_webhook(request.subscription, headers, request.body)
        return {"repeated": not new}

    # -- checks -----------------------------------------------------------------------

    def _checked(self, spec: SubscriptionSpec) -> SubscriptionSpec:
        """The subscription as it can be kept.

        Raises:
            UsageError: source, sink, key or filter cannot be taken, a secret is not on this
                machine, or there is not exactly one of flow, endpoint and agent.
            UnknownName: there is no such flow, endpoint or agent.
        """
        check_source(spec.source)
        if [spec.flow, spec.endpoint, spec.agent].count(None) != 2:
            raise UsageError("give a flow, endpoint= or agent=, and only one of them")
        if spec.to is not None:
            if spec.endpoint is None:
                raise UsageError(
                    "to= is where an endpoint's answers go; flows and agents emit by themselves"
                )
            check_sink(spec.to)
            self._check_secrets(spec.to)
        if spec.source.kind in ("schedule", "webhook", *ALONE) and spec.consumers != Autoscale(
            1, 1
        ):
            raise UsageError(
                f"a {spec.source.kind} is read by one process, or none: leave consumers= out"
            )
        if spec.key is not None:
            check_key(spec.key)
        if spec.filter is not None:
            parse_filter(spec.filter)
        self._check_secrets(spec.source)
        if spec.endpoint is not None:
            self._registry.endpoint(spec.endpoint)
        elif spec.agent is not None:
            self._registry.definition("agent", spec.agent)
        else:
            name, _, version = str(spec.flow).partition(":")
            if version and not version.isdecimal():
                raise UsageError(f"{spec.flow!r:.80} is no flow; one is refund, or refund:3")
            self._registry.definition("flow", name, int(version) if version else None)
        return spec

    def _check_secrets(self, place: Any) -> None:
        if isinstance(place, Webhook) and place.secret is not None:
            key_of_webhook(place.secret, self._home)
        elif getattr(place, "password", None) is not None:
            secret(place.password, self._home)

    # -- queries ----------------------------------------------------------------------

    def _subscriptions(self) -> list[dict[str, Any]]:
        backlog, dead = self.events.store.backlog(), self.events.store.dead_counts()
        now_s = self._registry.now_s()
        return [
            self._view(one, backlog, dead, now_s) for one in self._registry.subscriptions(off=True)
        ]

    def _view(
        self,
        one: Subscription,
        backlog: dict[str, tuple[int, float]],
        dead: dict[str, int],
        now_s: float,
    ) -> dict[str, Any]:
        events, spec = self.events, one.spec
        waiting, since_s = backlog.get(one.id, (0, now_s))
        readers = events.readers.readers.get(one.id)
        counts = {
            name: events.counts[(one.id, name)] + events.dispatcher.counts[(one.id, name)]
            for name in ("taken", "repeated", "filtered", "refused", "unreadable", "done", "dead")
        }
        problem = events.dispatcher.problem(one.id)
        return {
            "id": one.id,
            "source": spec.source.shown,
            "target": spec.target,
            "to": None if spec.to is None else spec.to.shown,
            "key": spec.key,
            "filter": spec.filter,
            "active": one.active,
            "path": f"/v1/events/{one.id}" if spec.source.kind == "webhook" else None,
            "waiting": waiting,
            "oldest_s": max(0.0, now_s - since_s),
            "lag": None if readers is None else readers.lag,
            "readers": 0 if readers is None else len(readers.handles),
            "pids": [] if readers is None else readers.pids,
            "restarts": 0 if readers is None else readers.restarts,
            "dead_letters": dead.get(one.id, 0),
            "counts": counts,
            "problem": problem or (None if readers is None else readers.problem),
            "created_s": one.created_s,
            "created_by": one.created_by,
        }

    def _outbox(self) -> list[dict[str, Any]]:
        store, now_s = self.events.store, self._registry.now_s()
        first = store.first_to_leave()
        found = []
        for sink, (waiting, since_s) in store.outgoing().items():
            attempts, problem = first.get(sink, (0, None))
            told = {"attempts": attempts, "problem": problem}
            shown = SINK.validate_json(sink).shown
            age_s = max(0.0, now_s - since_s)
            found.append({"sink": shown, "waiting": waiting, "oldest_s": age_s, **told})
        return sorted(found, key=lambda one: str(one["sink"]))

    def _dead_letters(
        self, subscription: str | None, replayed: bool, limit: int
    ) -> list[dict[str, Any]]:
        known = {one.id for one in self._registry.subscriptions(off=True)} | {OUTBOX}
        if subscription is not None and subscription not in known:
            raise UnknownName(
                f"no subscription {subscription!r:.80}; there are {', '.join(sorted(known))}"
            )
        found = self.events.store.dead_letters(subscription, replayed=replayed, most=limit)
        return [one.model_dump(mode="json") for one in found]


def _refuse_other(known: Subscription, spec: SubscriptionSpec) -> None:
    """One that is on is not changed under who reads it, nor one with events of another source."""
    if known.spec == spec:
        return
    if known.active:
        raise IllegalTransition(
            f"subscription {spec.id!r} is on, from {known.spec.source.shown} to "
            f"{known.spec.target}, and otherwise than asked for: take it off first, or give "
            "another id="
        )
    if known.spec.source.kind != spec.source.kind:
        raise IllegalTransition(
            f"subscription {spec.id!r} was one of a {known.spec.source.kind}: its events are known "
            "by other coordinates; give another id="
        )
