"""What people are to be told: kept before it is sent, so that a kernel that dies forgets none.

Each sink (`sink_key`: the same address by the same means, whatever the watch) gets its alerts in
the order in which they came, so that nobody learns of an alarm after its end.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from aios.clock import Clock
from aios.records import Record
from aios.records.alerts import Alert, AlertMessage
from aios.registry.base import Writing, from_row
from aios.store import tables as t
from aios.store.canonical import canonical
from aios.store.database import Database

LATE_S = 60.0
"""An alert that waits for longer is told of, even if no attempt has failed yet."""
SHOWN_S = 7 * 86_400.0
"""How long it is told that an alert was given up."""


class QueuedAlert(Record):
    """An alert on its way to one sink. `sink` and `message` are read when it is sent, so that
    one that cannot be read holds up no other."""

    seq: int
    alert_id: str
    sink_key: str
    watch: str
    sink: dict[str, Any]
    message: dict[str, Any]
    attempts: int
    created_s: float
    due_s: float


class AlertWrites(Writing):
    """Changes that people are told of."""

    def add_alert(self, message: AlertMessage, sinks: Iterable[Alert]) -> int:
        """Keep a message for each sink that was not told it before. What waits for these sinks is
        tried again at once.

        Returns:
            For how many sinks it is new.
        """
        added = 0
        for sink in sinks:
            fields = sink.model_dump(mode="json")
            row = {
                "alert_id": message.id,
                "sink_key": hashlib.sha256(canonical(fields).encode()).hexdigest()[:16],
                "watch": message.watch,
                "sink": fields,
                "message": message.model_dump(mode="json"),
                "state": "waiting",
                "attempts": 0,
                "created_s": self.at_s,
                "due_s": self.at_s,
            }
            added += _add(self._open(), row)
        return added


class Outbox:
    """The store of alerts on their way. Safe to share between threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def heads(self) -> list[QueuedAlert]:
        """The oldest alert that waits for each sink, oldest first, due or not."""
        a = t.alerts.c
        oldest = select(func.min(a.seq)).where(a.state == "waiting").group_by(a.sink_key)
        query = select(t.alerts).where(a.seq.in_(oldest)).order_by(a.seq)
        with self._database.reading() as connection:
            return [from_row(QueuedAlert, row) for row in connection.execute(query)]

    def sent(self, seq: int) -> None:
        """It has arrived."""
        self._write(seq, state="sent", problem=None, ended_s=self._clock.now_s())

    def failed(self, seq: int, problem: str, due_s: float) -> None:
        """An attempt failed; the next is at `due_s`."""
        self._write(seq, problem=problem, due_s=due_s)

    def given_up(self, seq: int, problem: str) -> None:
        """The last attempt failed."""
        self._write(seq, state="given_up", problem=problem, ended_s=self._clock.now_s())

    def undelivered(self, watch_id: str) -> list[dict[str, Any]]:
        """Alerts of a watch that did not arrive when they should have, oldest first: `sink` (as
        stored), `alert`, `state` (`waiting` or `given_up`), `attempts`, `since_s`, `problem`."""
        a, now_s = t.alerts.c, self._clock.now_s()
        late = (a.state == "waiting") & (a.problem.is_not(None) | (a.created_s < now_s - LATE_S))
        lost = (a.state == "given_up") & (a.ended_s > now_s - SHOWN_S)
        query = (
            select(
                a.sink,
                a.alert_id.label("alert"),
                a.state,
                a.attempts,
                a.created_s.label("since_s"),
                a.problem,
            )
            .where(a.watch == watch_id, late | lost)
            .order_by(a.seq)
        )
        with self._database.reading() as connection:
            return [row._asdict() for row in connection.execute(query)]

    def _write(self, seq: int, **values: Any) -> None:
        a = t.alerts.c
        change = update(t.alerts).where(a.seq == seq)
        with self._database.transaction() as connection:
            connection.execute(change.values(attempts=a.attempts + 1, **values))


def _add(connection: Connection, row: dict[str, Any]) -> int:
    a = t.alerts.c
    mine = a.sink_key == row["sink_key"]
    known = select(a.seq).where(mine, a.alert_id == row["alert_id"])
    if connection.execute(known).first() is not None:
        return 0
    connection.execute(insert(t.alerts).values(**row))
    waiting = mine & (a.state == "waiting")
    connection.execute(update(t.alerts).where(waiting).values(due_s=row["due_s"]))
    return 1
