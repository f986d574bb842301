"""Agents: what they know, their mailboxes, what they decided, and the hosts that had them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
WAITING = sa.text("state = 'waiting'")
NAMED = sa.text("operation IS NOT NULL")


def upgrade() -> None:
    """Create the tables."""
    _create_agents()
    _create_mailbox()
    _create_log()


def _create_agents() -> None:
    op.create_table(
        "agent_hosts",
        sa.Column("epoch", SEQUENCE, primary_key=True),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
        sa.Column("problem", sa.Text),
    )
    op.create_table(
        "agents",
        sa.Column("ref", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text),
        sa.Column("budget", sa.Text, nullable=False),
        sa.Column("spent", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("parent", sa.Text),
        sa.Column("depth", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("restarts", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("waiting", sa.BigInteger, nullable=False),
        sa.Column("handled", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("updated_s", sa.Double, nullable=False),
    )
    op.create_index("agents_by_name", "agents", ["name", "id"], unique=True)
    op.create_index("agents_by_parent", "agents", ["parent"])
    op.create_table(
        "agent_plans",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("share", sa.Double, nullable=False),
        sa.Column("shadow", sa.Boolean, nullable=False),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
    )


def _create_mailbox() -> None:
    op.create_table(
        "mailbox",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("hops", sa.Integer, nullable=False),
        sa.Column("operation", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("due_s", sa.Double, nullable=False),
        sa.Column("reply", sa.Text),
        sa.Column("problem", sa.Text),
        sa.Column("version", sa.Integer),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
    )
    op.create_index("mailbox_by_agent", "mailbox", ["agent", "seq"])
    op.create_index(
        "mailbox_waiting",
        "mailbox",
        ["agent", "seq"],
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    )
    op.create_index(
        "mailbox_operations",
        "mailbox",
        ["operation"],
        unique=True,
        sqlite_where=NAMED,
        postgresql_where=NAMED,
    )


def _create_log() -> None:
    op.create_table(
        "agent_log",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("message", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("choice", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
    )
    op.create_index("agent_log_by_agent", "agent_log", ["agent", "seq"])
    op.create_table(
        "tool_calls",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("message", sa.BigInteger, nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("approval", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("problem", sa.Text),
        sa.Column("answered_by", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("ended_s", sa.Double),
    )
    op.create_index("tool_calls_by_state", "tool_calls", ["state", "at_s"])
    op.create_index("tool_calls_by_agent", "tool_calls", ["agent", "at_s"])
