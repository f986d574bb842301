"""Feedback from event sources: which event said it and when; and totals beside the feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TOTALS = ("given", "requests", "joined", "unknown", "history")


def upgrade() -> None:
    """Add the columns, and count what there is."""
    plain = sa.Column("history", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("feedback", plain)
    op.add_column("feedback", sa.Column("said_s", sa.Double))
    op.add_column("feedback", sa.Column("source", sa.Text))
    op.add_column("feedback", sa.Column("event_id", sa.Text))
    by_event = sa.text("event_id IS NOT NULL")
    op.create_index(
        "feedback_by_event",
        "feedback",
        ["endpoint", "source", "event_id"],
        unique=True,
        sqlite_where=by_event,
        postgresql_where=by_event,
    )
    op.create_table(
        "feedback_totals",
        sa.Column("endpoint", sa.Text, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in TOTALS),
    )
    op.execute(
        "INSERT INTO feedback_totals (endpoint, given, requests, joined, unknown, history) "
        "SELECT endpoint, count(*), count(DISTINCT request_id), count(answer), "
        "sum(CASE WHEN looked_for AND answer IS NULL THEN 1 ELSE 0 END), 0 "
        "FROM feedback GROUP BY endpoint"
    )
