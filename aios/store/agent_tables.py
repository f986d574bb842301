"""The tables of agents, in the same schema as all others."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, Table, text

from aios.store.columns import JsonText, SafeText
from aios.store.tables import SEQUENCE, tables

agent_hosts = Table(
    "agent_hosts",
    tables,
    Column("epoch", SEQUENCE, primary_key=True),
    Column("started_s", Double, nullable=False),
    Column("ended_s", Double),
    Column("problem", SafeText),
)

agents = Table(
    "agents",
    tables,
    Column("ref", SafeText, primary_key=True),
    Column("name", SafeText, nullable=False),
    Column("id", SafeText, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", JsonText),
    Column("budget", JsonText, nullable=False),
    Column("spent", JsonText, nullable=False),
    Column("scopes", JsonText, nullable=False),
    Column("parent", SafeText),
    Column("depth", Integer, nullable=False),
    Column("status", SafeText, nullable=False),
    Column("restarts", JsonText, nullable=False),
    Column("epoch", BigInteger),
    Column("waiting", BigInteger, nullable=False),
    Column("handled", BigInteger, nullable=False),
    Column("problem", SafeText),
    Column("created_s", Double, nullable=False),
    Column("created_by", SafeText, nullable=False),
    Column("updated_s", Double, nullable=False),
    Index("agents_by_name", "name", "id", unique=True),
    Index("agents_by_parent", "parent"),
)

mailbox = Table(
    "mailbox",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("agent", SafeText, nullable=False),
    Column("kind", SafeText, nullable=False),
    Column("message", JsonText),
    Column("sender", SafeText, nullable=False),
    Column("path", JsonText, nullable=False),
    Column("hops", Integer, nullable=False),
    Column("operation", SafeText),
    Column("state", SafeText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("due_s", Double, nullable=False),
    Column("reply", JsonText),
    Column("problem", JsonText),
    Column("version", Integer),
    Column("at_s", Double, nullable=False),
    Column("ended_s", Double),
    Index("mailbox_by_agent", "agent", "seq"),
    Index(
        "mailbox_waiting",
        "agent",
        "seq",
        sqlite_where=text("state = 'waiting'"),
        postgresql_where=text("state = 'waiting'"),
    ),
    Index(
        "mailbox_operations",
        "operation",
        unique=True,
        sqlite_where=text("operation IS NOT NULL"),
        postgresql_where=text("operation IS NOT NULL"),
    ),
)

agent_log = Table(
    "agent_log",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("agent", SafeText, nullable=False),
    Column("message", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", SafeText, nullable=False),
    Column("choice", SafeText, nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("details", JsonText, nullable=False),
    Column("at_s", Double, nullable=False),
    Index("agent_log_by_agent", "agent", "seq"),
)

tool_calls = Table(
    "tool_calls",
    tables,
    Column("key", SafeText, primary_key=True),
    Column("agent", SafeText, nullable=False),
    Column("message", BigInteger, nullable=False),
    Column("tool", SafeText, nullable=False),
    Column("arguments", JsonText, nullable=False),
    Column("approval", SafeText),
    Column("state", SafeText, nullable=False),
    Column("result", JsonText),
    Column("problem", SafeText),
    Column("answered_by", SafeText),
    Column("reason", SafeText),
    Column("at_s", Double, nullable=False),
    Column("ended_s", Double),
    Index("tool_calls_by_state", "state", "at_s"),
    Index("tool_calls_by_agent", "agent", "at_s"),
)

agent_plans = Table(
    "agent_plans",
    tables,
    Column("name", SafeText, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("share", Double, nullable=False),
    Column("shadow", Boolean, nullable=False),
    Column("salt", SafeText, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("by", SafeText, nullable=False),
)
