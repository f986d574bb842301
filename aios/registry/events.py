"""Events as rows: what came in and waits, what was set aside, what goes out.

What a source has told is here before the source is told that it was taken, so that nothing is
lost; each message has its coordinates, so that nothing is taken twice. Of a subscription, events
of one key are handed out in the order in which they came: one that is put off holds up those of
its key behind it, and no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, delete, func, select, text, update

from aios.clock import Clock
from aios.records import Record
from aios.records.cloudevents import CloudEvent, as_json
from aios.records.events import DeadLetter, Incoming, Sink, Subscription
from aios.registry.base import record
from aios.registry.subscriptions import (
    SET_ASIDE,
    TAKE,
    inbox_row,
    read_subscription,
    sink_key,
    unsent_row,
)
from aios.store import event_tables as t
from aios.store.canonical import canonical
from aios.store.database import Database

LONGEST_PAUSE_S = 60.0
"""Nothing is put off for longer; what is due beyond that was put there by a clock set back."""
KEPT_S = 7 * 86_400.0
"""How long it is known that an event was taken, after it was acted on."""
_WAITING = text("state = 'waiting'")
_SEND = text(
    "INSERT INTO outbox (sink_key, sink, event_source, event_id, key, event, state, attempts,"
    " due_s, created_s) VALUES (:sink_key, :sink, :event_source, :event_id, :key, :event,"
    " 'waiting', 0, 0, :created_s) ON CONFLICT (sink_key, event_source, event_id) DO NOTHING"
)


class Row(Record):
    """An event that waits in the inbox."""

    seq: int
    coordinates: str
    key: str | None
    event: str
    attempts: int
    taken_s: float

    @property
    def content(self) -> dict[str, Any]:
        """The CloudEvent in its JSON format."""
        found: dict[str, Any] = orjson.loads(self.event)
        return found


class Leaving(Record):
    """An event that waits in the outbox."""

    seq: int
    sink_key: str
    sink: dict[str, Any]
    key: str | None
    event: str
    attempts: int
    created_s: float


@dataclass(frozen=True)
class Outgoing:
    """An event to send."""

    sink: Sink
    event: CloudEvent
    key: str | None = None


@dataclass
class Taken:
    """What became of a batch: how many are new, were known already, cannot be read; how many
    events wait now."""

    stored: int = 0
    repeated: int = 0
    unreadable: int = 0
    waiting: int = 0


@dataclass
class Outcome:
    """What became of some rows of an inbox: all of it or nothing is written.

    Attributes:
        done: numbers of rows that were acted on. `sends`: what follows from them.
        put_off: (number, attempts, when it is due).
        dead: (row, attempts, reason, trace).
    """

    done: list[int] = field(default_factory=list)
    sends: list[Outgoing] = field(default_factory=list)
    put_off: list[tuple[int, int, float]] = field(default_factory=list)
    dead: list[tuple[Row, int, str, str]] = field(default_factory=list)


class EventStore:
    """The store of events. Safe to share between threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # -- coming in --------------------------------------------------------------------

    def take(
        self,
        subscription: str,
        batch: Sequence[Incoming],
        position: dict[str, Any] | None = None,
    ) -> Taken:
        """Keep a batch, each message once; on disk when this returns.

        Args:
            position: how far its reader is, kept with the batch.
        """
        now_s, told = self._clock.now_s(), Taken()
        rows = [
            inbox_row(subscription, one.coordinates, one.key, one.event, now_s)
            for one in batch
            if one.event is not None and one.reason is None
        ]
        aside = [
            _aside_row(subscription, one, now_s)
            for one in batch
            if one.event is None or one.reason is not None
        ]
        with self._database.transaction() as connection:
            if rows:
                told.stored = connection.execute(TAKE, rows).rowcount
            if aside:
                connection.execute(SET_ASIDE, aside)
            if position is not None:
                mine = t.subscriptions.c.id == subscription
                values = {"position": position}
                connection.execute(update(t.subscriptions).where(mine).values(**values))
            told.waiting = _waiting(connection, subscription)
        told.repeated = len(rows) - told.stored
        told.unreadable = len(aside)
        return told

    def waiting(self, subscription: str) -> int:
        """How many events wait."""
        with self._database.reading() as connection:
            return _waiting(connection, subscription)

    def backlog(self) -> dict[str, tuple[int, float]]:
        """By subscription: how many events wait, and when the oldest of them came."""
        i = t.inbox.c
        query = (
            select(i.subscription, func.count(), func.min(i.taken_s))
            .where(_WAITING)
            .group_by(i.subscription)
        )
        with self._database.reading() as connection:
            return {row[0]: (int(row[1]), float(row[2])) for row in connection.execute(query)}

    def subscriptions(self) -> list[Subscription]:
        """Those that are on."""
        query = select(t.subscriptions).where(t.subscriptions.c.active)
        with self._database.reading() as connection:
            return [read_subscription(row) for row in connection.execute(query)]

    # -- acted on ---------------------------------------------------------------------

    def due(self, subscription: str, most: int) -> list[Row]:
        """The oldest events that may be acted on, in the order in which they came: neither put off
        nor behind one of their key that is."""
        i, now_s = t.inbox.c, self._clock.now_s()
        later = (i.due_s > now_s) & (i.due_s <= now_s + LONGEST_PAUSE_S)
        mine = i.subscription == subscription
        # As the index of what is put off spells it; it is nearly always empty.
        held = (
            select(i.key).where(mine, text("state = 'waiting' AND due_s > 0"), later, i.key != None)  # noqa: E711
        )
        query = (
            select(i.seq, i.coordinates, i.key, i.event, i.attempts, i.taken_s)
            .where(mine, _WAITING, ~later, (i.key.is_(None)) | (i.key.not_in(held)))
            .order_by(i.seq)
            .limit(most)
        )
        with self._database.reading() as connection:
            return [Row(**row._asdict()) for row in connection.execute(query)]

    def settle(self, subscription: str, outcome: Outcome) -> None:
        """Keep what became of events, with what follows from it."""
        i, now_s = t.inbox.c, self._clock.now_s()
        with self._database.transaction() as connection:
            if outcome.done:
                done = [{"seq": seq, "ended_s": now_s} for seq in outcome.done]
                sql = "UPDATE inbox SET state = 'done', ended_s = :ended_s WHERE seq = :seq"
                connection.execute(text(sql), done)
            if outcome.put_off:
                later = [
                    {"seq": seq, "attempts": attempts, "due_s": due_s}
                    for seq, attempts, due_s in outcome.put_off
                ]
                sql = "UPDATE inbox SET attempts = :attempts, due_s = :due_s WHERE seq = :seq"
                connection.execute(text(sql), later)
            for row, attempts, reason, trace in outcome.dead:
                values: dict[str, Any] = {"attempts": attempts, "state": "dead", "ended_s": now_s}
                connection.execute(update(t.inbox).where(i.seq == row.seq).values(**values))
                aside = {
                    "subscription": subscription,
                    "coordinates": row.coordinates,
                    "event": row.event,
                    "raw": None,
                    "reason": reason,
                    "trace": trace,
                    "attempts": attempts,
                    "at_s": now_s,
                }
                connection.execute(SET_ASIDE, aside)
            _send(connection, outcome.sends, now_s)

    def forget(self) -> int:
        """Remove what was acted on, sent or replayed long ago. Of files it stays, without content:
        their source has no other memory.

        Returns:
            How many events went.
        """
        before_s = self._clock.now_s() - KEPT_S
        files = [one.id for one in self.subscriptions() if one.spec.source.kind == "files"]
        i, o, d = t.inbox.c, t.outbox.c, t.dead_letters.c
        old = (i.state == "done") & (i.ended_s < before_s)
        with self._database.transaction() as connection:
            bare = update(t.inbox).where(old, i.subscription.in_(files), i.event != "")
            connection.execute(bare.values(event=""))
            gone = delete(t.inbox).where(old, i.subscription.not_in(files))
            count = connection.execute(gone).rowcount
            connection.execute(delete(t.outbox).where(o.state == "sent", o.ended_s < before_s))
            connection.execute(delete(t.dead_letters).where(d.replayed_s < before_s))
        return int(count)

    # -- set aside --------------------------------------------------------------------

    def dead_letters(
        self, subscription: str | None = None, *, replayed: bool = False, most: int = 1_000
    ) -> list[DeadLetter]:
        """The newest `most`, oldest of them first; with `replayed` those too that were."""
        d = t.dead_letters.c
        query = select(t.dead_letters).order_by(d.id.desc()).limit(most)
        if subscription is not None:
            query = query.where(d.subscription == subscription)
        if not replayed:
            query = query.where(d.replayed_s.is_(None))
        with self._database.reading() as connection:
            return [_dead_letter(row) for row in connection.execute(query)][::-1]

    def dead_counts(self) -> dict[str, int]:
        """By subscription, how many were set aside and not replayed."""
        d = t.dead_letters.c
        query = select(d.subscription, func.count()).where(d.replayed_s.is_(None))
        with self._database.reading() as connection:
            return {
                row[0]: int(row[1]) for row in connection.execute(query.group_by(d.subscription))
            }

    # -- going out --------------------------------------------------------------------

    def send(self, events: Sequence[Outgoing]) -> None:
        """Keep events to send, each once for a sink; on disk when this returns."""
        with self._database.transaction() as connection:
            _send(connection, events, self._clock.now_s())

    def leaving(self, most: int) -> dict[str, list[Leaving]]:
        """By sink, the oldest `most` events that wait; none of a sink whose oldest is put off."""
        o, now_s, found = t.outbox.c, self._clock.now_s(), {}
        with self._database.reading() as connection:
            sinks = (
                connection.execute(select(o.sink_key).where(_WAITING).distinct()).scalars().all()
            )
            for sink_key in sinks:
                query = select(t.outbox).where(_WAITING, o.sink_key == sink_key)
                rows = connection.execute(query.order_by(o.seq).limit(most)).all()
                if not now_s < rows[0].due_s <= now_s + LONGEST_PAUSE_S:
                    fields = Leaving.model_fields
                    found[sink_key] = [
                        Leaving(**{name: getattr(row, name) for name in fields}) for row in rows
                    ]
        return found

    def left(self, seqs: Sequence[int]) -> None:
        """These have arrived."""
        rows = [{"seq": seq, "ended_s": self._clock.now_s()} for seq in seqs]
        sql = (
            "UPDATE outbox SET state = 'sent', problem = NULL, ended_s = :ended_s WHERE seq = :seq"
        )
        with self._database.transaction() as connection:
            connection.execute(text(sql), rows)

    def not_left(self, row: Leaving, attempts: int, problem: str, due_s: float) -> None:
        """An attempt failed; the next is at `due_s`."""
        values = {"attempts": attempts, "problem": problem, "due_s": due_s}
        with self._database.transaction() as connection:
            mine = t.outbox.c.seq == row.seq
            connection.execute(update(t.outbox).where(mine).values(**values))

    def cannot_leave(self, row: Leaving, attempts: int, reason: str, trace: str) -> None:
        """Set one aside that its sink does not take."""
        now_s = self._clock.now_s()
        values = {"attempts": attempts, "problem": reason, "state": "dead", "ended_s": now_s}
        with self._database.transaction() as connection:
            mine = t.outbox.c.seq == row.seq
            connection.execute(update(t.outbox).where(mine).values(**values))
            aside = unsent_row(row.seq, row.event, attempts, reason, trace, now_s)
            connection.execute(SET_ASIDE, aside)

    def outgoing(self) -> dict[str, tuple[int, float]]:
        """By sink, as JSON: how many events wait, and since when the oldest does."""
        o = t.outbox.c
        query = select(o.sink, func.count(), func.min(o.created_s)).where(_WAITING)
        with self._database.reading() as connection:
            rows = connection.execute(query.group_by(o.sink)).all()
        return {canonical(row[0]): (int(row[1]), float(row[2])) for row in rows}

    def first_to_leave(self) -> dict[str, tuple[int, str | None]]:
        """By sink, as JSON: how often the oldest that waits was tried, and what went wrong last."""
        o = t.outbox.c
        oldest = select(func.min(o.seq)).where(_WAITING).group_by(o.sink_key)
        query = select(o.sink, o.attempts, o.problem).where(o.seq.in_(oldest))
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return {canonical(row[0]): (int(row[1]), row[2]) for row in rows}


def _aside_row(subscription: str, one: Incoming, now_s: float) -> dict[str, Any]:
    return {
        "subscription": subscription,
        "coordinates": one.coordinates,
        "event": one.event,
        "raw": one.raw,
        "reason": one.reason or "it cannot be read",
        "trace": "",
        "attempts": 1,
        "at_s": now_s,
    }


def _waiting(connection: Connection, subscription: str) -> int:
    query = select(func.count()).where(t.inbox.c.subscription == subscription, _WAITING)
    return int(connection.execute(query).scalar() or 0)


def _send(connection: Connection, events: Sequence[Outgoing], now_s: float) -> None:
    rows = [
        {
            "sink_key": sink_key(one.sink),
            "sink": canonical(one.sink.model_dump(mode="json")),
            "event_source": one.event.source,
            "event_id": one.event.id,
            "key": one.key,
            "event": orjson.dumps(as_json(one.event)).decode(),
            "created_s": now_s,
        }
        for one in events
    ]
    if rows:
        connection.execute(_SEND, rows)


def _dead_letter(row: Any) -> DeadLetter:
    fields = row._asdict()
    event = fields["event"]
    return record(DeadLetter, {**fields, "event": None if event is None else orjson.loads(event)})
