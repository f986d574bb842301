"""The tables of events: what is subscribed to, came in, was set aside, and goes out."""

from sqlalchemy import Boolean, Column, Double, Index, Integer, Table, text

from aios.store.columns import JsonText, SafeText
from aios.store.tables import SEQUENCE, tables

_WAITING = text("state = 'waiting'")

subscriptions = Table(
    "subscriptions",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("spec", JsonText, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("position", JsonText),
    Column("created_s", Double, nullable=False),
    Column("created_by", SafeText, nullable=False),
)

inbox = Table(
    "inbox",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("subscription", SafeText, nullable=False),
    Column("coordinates", SafeText, nullable=False),
    Column("key", SafeText),
    Column("event", SafeText, nullable=False),
    Column("state", SafeText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_s", Double, nullable=False),
    Column("taken_s", Double, nullable=False),
    Column("ended_s", Double),
    Index("inbox_once", "subscription", "coordinates", unique=True),
    Index(
        "inbox_waiting",
        "subscription",
        "seq",
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    ),
    Index(
        "inbox_put_off",
        "subscription",
        "due_s",
        "key",
        sqlite_where=text("state = 'waiting' AND due_s > 0"),
        postgresql_where=text("state = 'waiting' AND due_s > 0"),
    ),
    Index("inbox_ended", "ended_s"),
)

dead_letters = Table(
    "dead_letters",
    tables,
    Column("id", SEQUENCE, primary_key=True),
    Column("subscription", SafeText, nullable=False),
    Column("coordinates", SafeText, nullable=False),
    Column("event", SafeText),
    Column("raw", SafeText),
    Column("reason", SafeText, nullable=False),
    Column("trace", SafeText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("replayed_s", Double),
    Index("dead_letters_once", "subscription", "coordinates", unique=True),
    sqlite_autoincrement=True,  # who holds a number from before must not mean another letter
)

outbox = Table(
    "outbox",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("sink_key", SafeText, nullable=False),
    Column("sink", JsonText, nullable=False),
    Column("event_source", SafeText, nullable=False),
    Column("event_id", SafeText, nullable=False),
    Column("key", SafeText),
    Column("event", SafeText, nullable=False),
    Column("state", SafeText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_s", Double, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("ended_s", Double),
    Column("problem", SafeText),
    Index("outbox_once", "sink_key", "event_source", "event_id", unique=True),
    Index(
        "outbox_waiting",
        "sink_key",
        "seq",
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    ),
    Index("outbox_ended", "ended_s"),
)
