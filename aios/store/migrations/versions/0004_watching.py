"""What watching keeps: windows of what was seen, feedback, watches."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _create_windows()
    _create_feedback()
    op.create_table(
        "watches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_index("watches_by_endpoint", "watches", ["endpoint", "created_s"])


def _create_windows() -> None:
    op.create_table(
        "windows",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("arm", sa.Text, primary_key=True),
        sa.Column("start_s", sa.Double, primary_key=True, autoincrement=False),
        sa.Column("end_s", sa.Double, primary_key=True, autoincrement=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("dropped", sa.BigInteger, nullable=False),
        sa.Column("parts", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_index("windows_by_time", "windows", ["endpoint", "start_s"])
    op.create_table(
        "baselines",
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
    )


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("given", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("looked_for", sa.Boolean, nullable=False),
        sa.Column("exported", sa.Boolean, nullable=False),
    )
    op.create_index("feedback_by_request", "feedback", ["endpoint", "request_id", "seq"])
    for name, column in (
        ("feedback_to_export", "exported"),
        ("feedback_to_look_for", "looked_for"),
    ):
        op.create_index(
            name,
            "feedback",
            ["endpoint", "seq"],
            sqlite_where=sa.text(f"NOT {column}"),
            postgresql_where=sa.text(f"NOT {column}"),
        )
