"""Alerts: what people are to be told, and how far that is."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "alerts",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("alert_id", sa.Text, nullable=False),
        sa.Column("sink_key", sa.Text, nullable=False),
        sa.Column("watch", sa.Text, nullable=False),
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("due_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
        sa.Column("problem", sa.Text),
    )
    op.create_index("one_alert_per_sink", "alerts", ["alert_id", "sink_key"], unique=True)
    op.create_index("alerts_by_watch", "alerts", ["watch", "seq"])
    waiting = sa.text("state = 'waiting'")
    op.create_index(
        "alerts_waiting",
        "alerts",
        ["sink_key", "seq"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
