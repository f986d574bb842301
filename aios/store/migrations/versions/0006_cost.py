"""Cost: what nodes cost by the hour, who used them, and how far the metering is."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "usage",
        *_hour(),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("arm", sa.Text, primary_key=True),
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("node_type", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("core_s", sa.Double, nullable=False),
        sa.Column("gpu_s", sa.Double, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
    )
    op.create_table(
        "bills",
        *_hour(),
        sa.Column("node_type", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("node_s", sa.Double, nullable=False),
        sa.Column("core_s", sa.Double, nullable=False),
        sa.Column("gpu_s", sa.Double, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
    )
    op.create_table(
        "metering",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )


def _hour() -> list[sa.Column[float]]:
    return [
        sa.Column("start_s", sa.Double, primary_key=True, autoincrement=False),
        sa.Column("width_s", sa.Double, primary_key=True, autoincrement=False),
    ]
