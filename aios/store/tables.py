"""The tables as code uses them. The migrations build the same; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    text,
)

from aios.store.canonical import JsonText, SafeText

SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of type INTEGER."""

tables = MetaData()

audit = Table(
    "audit",
    tables,
    Column("seq", SEQUENCE, primary_key=True, autoincrement=False),
    Column("at_s", Double, nullable=False),
    Column("actor", SafeText, nullable=False),
    Column("action", SafeText, nullable=False),
    Column("subject", SafeText, nullable=False),
    Column("details", SafeText, nullable=False),
    Column("previous", SafeText, nullable=False),
    Column("hash", SafeText, nullable=False),
    Index("audit_by_subject", "subject", "seq"),
)

operations = Table(
    "operations",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("request_digest", SafeText, nullable=False),
    Column("result", JsonText, nullable=False),
    Column("at_s", Double, nullable=False),
)

versions = Table(
    "versions",
    tables,
    Column("name", SafeText, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("artifact", JsonText, nullable=False),
    Column("contract", JsonText, nullable=False),
    Column("contract_digest", SafeText, nullable=False),
    Column("metrics", JsonText, nullable=False),
    Column("tags", JsonText, nullable=False),
    Column("lineage", JsonText, nullable=False),
    Column("conversion", JsonText, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("created_by", SafeText, nullable=False),
)

aliases = Table(
    "aliases",
    tables,
    Column("name", SafeText, primary_key=True),
    Column("alias", SafeText, primary_key=True),
    Column("version", Integer, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
)

endpoints = Table(
    "endpoints",
    tables,
    Column("name", SafeText, primary_key=True),
    Column("spec", JsonText, nullable=False),
    Column("model", SafeText, nullable=False),
    Column("stable_version", Integer, nullable=False),
    Column("previous_version", Integer),
    Column("created_s", Double, nullable=False),
    Column("updated_s", Double, nullable=False),
    ForeignKeyConstraint(["model", "stable_version"], ["versions.name", "versions.version"]),
)

plans = Table(
    "plans",
    tables,
    Column("endpoint", SafeText, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("plan", JsonText, nullable=False),
    Column("at_s", Double, nullable=False),
)

rollouts = Table(
    "rollouts",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("endpoint", SafeText, nullable=False),
    Column("from_version", Integer, nullable=False),
    Column("to_version", Integer, nullable=False),
    Column("plan", JsonText, nullable=False),
    Column("status", SafeText, nullable=False),
    Column("stage", SafeText, nullable=False),
    Column("state", JsonText, nullable=False),
    Column("reason", SafeText),
    Column("created_s", Double, nullable=False),
    Column("finished_s", Double),
    Column("created_by", SafeText, nullable=False),
    Index("rollouts_by_endpoint", "endpoint", "created_s"),
    Index(
        "one_running_rollout",
        "endpoint",
        unique=True,
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
)

evidence = Table(
    "evidence",
    tables,
    Column("id", SEQUENCE, primary_key=True),
    Column("rollout_id", SafeText, ForeignKey("rollouts.id"), nullable=False),
    Column("era", SafeText, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("payload", JsonText, nullable=False),
    Index("evidence_by_rollout", "rollout_id", "id"),
)

keys = Table(
    "keys",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("identity", SafeText, nullable=False),
    Column("digest", SafeText, nullable=False, unique=True),
    Column("role", SafeText, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
)
