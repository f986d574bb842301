"""Feedback that was joined to its answer, by number: what watches ask for at every look."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    joined = sa.text("answer IS NOT NULL")
    op.create_index(
        "feedback_joined",
        "feedback",
        ["endpoint", "seq"],
        sqlite_where=joined,
        postgresql_where=joined,
    )
