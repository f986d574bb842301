"""What flows ask people, and what they answered."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "questions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("flow", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("form", sa.Text),
        sa.Column("to", sa.Text, nullable=False),
        sa.Column("unanswered", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("asked_s", sa.Double, nullable=False),
        sa.Column("until_s", sa.Double),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("answered_by", sa.Text),
        sa.Column("answered_s", sa.Double),
        sa.Column("problem", sa.Text),
    )
    op.create_index("questions_by_status", "questions", ["status", "asked_s"])
