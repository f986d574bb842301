"""Subscriptions: which events are acted on, changed only inside an audited change."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from sqlalchemy import Row, delete, insert, select, text, update

from aios.errors import IllegalTransition, UnknownName
from aios.records.events import Sink, Subscription, SubscriptionSpec
from aios.registry.base import Reading, Writing, listed, record, shown
from aios.store import event_tables as t
from aios.store.canonical import canonical

OUTBOX = "outbox"
"""As the subscription of a dead letter: an event that could not be sent."""
TAKE = text(
    "INSERT INTO inbox (subscription, coordinates, key, event, state, attempts, due_s, taken_s)"
    " VALUES (:subscription, :coordinates, :key, :event, 'waiting', 0, 0, :taken_s)"
    " ON CONFLICT (subscription, coordinates) DO NOTHING"
)
"""Puts an event into the inbox, unless it is there."""
SET_ASIDE = text(
    "INSERT INTO dead_letters"
    " (subscription, coordinates, event, raw, reason, trace, attempts, at_s)"
    " VALUES (:subscription, :coordinates, :event, :raw, :reason, :trace, :attempts, :at_s)"
    " ON CONFLICT (subscription, coordinates) DO UPDATE SET reason = excluded.reason,"
    " event = COALESCE(excluded.event, dead_letters.event), raw = excluded.raw,"
    " trace = excluded.trace, attempts = excluded.attempts, at_s = excluded.at_s,"
    " replayed_s = NULL"
)
Event = dict[str, Any]
"""A CloudEvent in its JSON format."""


class SubscriptionReads(Reading):
    """Questions about subscriptions."""

    def subscription(self, subscription_id: str) -> Subscription:
        """A subscription, on or off.

        Raises:
            UnknownName: none has this id; the message lists those that are on.
        """
        found = {one.id: one for one in self.subscriptions(off=True)}
        if subscription_id not in found:
            known = listed(name for name, one in found.items() if one.active)
            raise UnknownName(f"no subscription {shown(subscription_id)}; on are: {known}")
        return found[subscription_id]

    def subscriptions(self, *, off: bool = False) -> list[Subscription]:
        """Subscriptions that are on, oldest first; with `off` those too that are not."""
        s = t.subscriptions.c
        query = select(t.subscriptions).order_by(s.created_s, s.id)
        if not off:
            query = query.where(s.active)
        with self._reading() as connection:
            return [read_subscription(row) for row in connection.execute(query)]


class SubscriptionWrites(Writing, SubscriptionReads):
    """Changes of subscriptions. What comes in by them: `EventStore`."""

    def subscribe(self, spec: SubscriptionSpec) -> Subscription:
        """Turn one on, whatever it was before; what waits in its inbox stays."""
        fields = spec.model_dump(mode="json")
        mine = t.subscriptions.c.id == spec.id
        values: dict[str, Any] = {"spec": fields, "active": True}
        if not self._open().execute(update(t.subscriptions).where(mine).values(**values)).rowcount:
            row = {"id": spec.id, "created_s": self.at_s, "created_by": self.actor, **values}
            self._open().execute(insert(t.subscriptions).values(**row))
        return self.subscription(spec.id)

    def unsubscribe(self, subscription_id: str) -> Subscription:
        """Turn one off.

        Raises:
            UnknownName: there is none with this id.
        """
        found = self.subscription(subscription_id)
        mine = t.subscriptions.c.id == subscription_id
        self._open().execute(update(t.subscriptions).where(mine).values(active=False))
        return found

    def replay(self, letter_ids: Iterable[int], key_of: Callable[[Event, str], str | None]) -> int:
        """Let events be acted on again that were set aside.

        Args:
            key_of: of an event that had not the key that a subscription named, the key by what
                that subscription, given by its id, names now.

        Raises:
            UnknownName: there is no such dead letter.
            IllegalTransition: one of them could not be read, or was replayed already.
        """
        d, i, o, connection = t.dead_letters.c, t.inbox.c, t.outbox.c, self._open()
        again = {"state": "waiting", "attempts": 0, "due_s": 0, "ended_s": None}
        count = 0
        for letter_id in letter_ids:
            row = self._letter(letter_id)
            if row.event is None:
                raise IllegalTransition(
                    f"dead letter {row.id} could not be read ({row.reason}), and would not be now; "
                    "let its source send it anew, corrected, and discard this one"
                )
            if row.subscription == OUTBOX:
                mine = (o.seq == int(row.coordinates)) & (o.state == "dead")
                connection.execute(update(t.outbox).where(mine).values(**again))
            else:
                mine = (i.subscription == row.subscription) & (i.state == "dead")
                mine &= i.coordinates == row.coordinates
                if not connection.execute(update(t.inbox).where(mine).values(**again)).rowcount:
                    key = key_of(orjson.loads(row.event), row.subscription)
                    names = (row.subscription, row.coordinates, key, row.event)
                    connection.execute(TAKE, inbox_row(*names, self.at_s))
            done = update(t.dead_letters).where(d.id == letter_id)
            connection.execute(done.values(replayed_s=self.at_s))
            count += 1
        return count

    def discard(self, letter_ids: Iterable[int]) -> int:
        """Forget events that were set aside. A repeat of one changes nothing, unless it never came
        into the inbox: it could not be read, or lacked its key.

        Raises:
            UnknownName: there is no such dead letter.
            IllegalTransition: one of them was replayed.
        """
        i, o, connection = t.inbox.c, t.outbox.c, self._open()
        count = 0
        for letter_id in letter_ids:
            row = self._letter(letter_id)
            if row.subscription == OUTBOX:
                unsent = (o.seq == int(row.coordinates)) & (o.state == "dead")
                connection.execute(delete(t.outbox).where(unsent))
            else:
                mine = (i.subscription == row.subscription) & (i.state == "dead")
                mine &= i.coordinates == row.coordinates
                ended = {"state": "done", "ended_s": self.at_s}
                connection.execute(update(t.inbox).where(mine).values(**ended))
            connection.execute(delete(t.dead_letters).where(t.dead_letters.c.id == letter_id))
            count += 1
        return count

    def give_up(self, sink: Sink, reason: str) -> int:
        """Set everything aside that waits for a sink; what is being sent now may still arrive."""
        o, connection = t.outbox.c, self._open()
        mine = (o.sink_key == sink_key(sink)) & (o.state == "waiting")
        rows = connection.execute(select(o.seq, o.event, o.attempts).where(mine)).all()
        for seq, event, attempts in rows:
            aside = unsent_row(seq, event, attempts, reason, "", self.at_s)
            connection.execute(SET_ASIDE, aside)
        dead = {"state": "dead", "problem": reason, "ended_s": self.at_s}
        connection.execute(update(t.outbox).where(mine).values(**dead))
        return len(rows)

    def _letter(self, letter_id: int) -> Any:
        query = select(t.dead_letters).where(t.dead_letters.c.id == letter_id)
        row = self._open().execute(query).first()
        if row is None:
            raise UnknownName(f"no dead letter {letter_id}; see rt.dead_letters()")
        if row.replayed_s is not None:
            raise IllegalTransition(f"dead letter {row.id} was replayed already")
        return row


def inbox_row(
    subscription: str, coordinates: str, key: str | None, event: str, now_s: float
) -> dict[str, Any]:
    """The values of `TAKE`."""
    return {
        "subscription": subscription,
        "coordinates": coordinates,
        "key": key,
        "event": event,
        "taken_s": now_s,
    }


def unsent_row(
    seq: int, event: str, attempts: int, reason: str, trace: str, now_s: float
) -> dict[str, Any]:
    """The values of `SET_ASIDE` of an event that could not be sent."""
    return {
        "subscription": OUTBOX,
        "coordinates": str(seq),
        "event": event,
        "raw": None,
        "reason": reason,
        "trace": trace,
        "attempts": attempts,
        "at_s": now_s,
    }


def sink_key(sink: Sink) -> str:
    """What tells one sink from another."""
    return hashlib.sha256(canonical(sink.model_dump(mode="json")).encode()).hexdigest()[:16]


def read_subscription(row: Row[*tuple[Any, ...]]) -> Subscription:
    """A subscription from its row."""
    fields = row._asdict()
    fields.pop("id")
    return record(Subscription, fields)
