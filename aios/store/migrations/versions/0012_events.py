"""Events: what is subscribed to, came in, was set aside, and goes out."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
WAITING = sa.text("state = 'waiting'")
PUT_OFF = sa.text("state = 'waiting' AND due_s > 0")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("position", sa.Text),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    _inbox()
    op.create_table(
        "dead_letters",
        sa.Column("id", SEQUENCE, primary_key=True),
        sa.Column("subscription", sa.Text, nullable=False),
        sa.Column("coordinates", sa.Text, nullable=False),
        sa.Column("event", sa.Text),
        sa.Column("raw", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("trace", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("replayed_s", sa.Double),
    )
    op.create_index(
        "dead_letters_once", "dead_letters", ["subscription", "coordinates"], unique=True
    )
    _outbox()


def _inbox() -> None:
    op.create_table(
        "inbox",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("subscription", sa.Text, nullable=False),
        sa.Column("coordinates", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_s", sa.Double, nullable=False),
        sa.Column("taken_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
    )
    op.create_index("inbox_once", "inbox", ["subscription", "coordinates"], unique=True)
    op.create_index(
        "inbox_waiting",
        "inbox",
        ["subscription", "seq"],
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    )
    op.create_index(
        "inbox_put_off",
        "inbox",
        ["subscription", "due_s", "key"],
        sqlite_where=PUT_OFF,
        postgresql_where=PUT_OFF,
    )
    op.create_index("inbox_ended", "inbox", ["ended_s"])


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("sink_key", sa.Text, nullable=False),
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("event_source", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_s", sa.Double, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
        sa.Column("problem", sa.Text),
    )
    op.create_index("outbox_once", "outbox", ["sink_key", "event_source", "event_id"], unique=True)
    op.create_index(
        "outbox_waiting",
        "outbox",
        ["sink_key", "seq"],
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    )
    op.create_index("outbox_ended", "outbox", ["ended_s"])
