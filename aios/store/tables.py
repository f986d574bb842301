"""The tables as code uses them. The migrations build the same; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    false,
    text,
)

from aios.store.columns import JsonText, SafeText

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

profiles = Table(
    "profiles",
    tables,
    Column("name", SafeText, primary_key=True),
    Column("use", SafeText, nullable=False),
    Column("purpose", SafeText, nullable=False),
    Column("owner", SafeText, nullable=False),
    Column("limits", JsonText, nullable=False),
    Column("protected", JsonText, nullable=False),
    Column("declared_s", Double, nullable=False),
    Column("declared_by", SafeText, nullable=False),
)

policies = Table(
    "policies",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("digest", SafeText, nullable=False),
    Column("content", JsonText, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("by", SafeText, nullable=False),
    Index("policies_by_digest", "digest", "seq"),
)

snapshots = Table(
    "snapshots",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("digest", SafeText, nullable=False),
    Column("location", SafeText, nullable=False),
    Column("content", JsonText, nullable=False),
    Column("taken_s", Double, nullable=False),
    Index("snapshots_by_digest", "digest", "seq"),
)

assessments = Table(
    "assessments",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("id", SafeText, nullable=False, unique=True),
    Column("name", SafeText, nullable=False),
    Column("version", Integer, nullable=False),
    Column("run", SafeText),
    Column("artifact_digest", SafeText, nullable=False),
    Column("snapshot_digest", SafeText, nullable=False),
    Column("policy_digest", SafeText, nullable=False),
    Column("digest", SafeText, nullable=False),
    Column("results", JsonText, nullable=False),
    Column("card", SafeText, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("by", SafeText, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
    Index("assessments_by_version", "name", "version", "seq"),
)

approvals = Table(
    "approvals",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("id", SafeText, nullable=False, unique=True),
    Column("subject", SafeText, nullable=False),
    Column("name", SafeText, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", SafeText, nullable=False),
    Column("needed", Integer, nullable=False),
    Column("author", SafeText, nullable=False),
    Column("requested_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
    Index("approvals_by_subject", "subject", "seq"),
    Index("approvals_by_expiry", "expires_s"),
)

decisions = Table(
    "decisions",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("request_id", SafeText, ForeignKey("approvals.id"), nullable=False),
    Column("by", SafeText, nullable=False),
    Column("answer", SafeText, nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("at_s", Double, nullable=False),
    Index("one_answer_each", "request_id", "by", unique=True),
)

break_glass = Table(
    "break_glass",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("name", SafeText, nullable=False),
    Column("by", SafeText, nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("from_s", Double, nullable=False),
    Column("until_s", Double, nullable=False),
    Index("break_glass_by_end", "until_s", "name"),
)

servings = Table(
    "servings",
    tables,
    Column("id", SEQUENCE, primary_key=True),
    Column("endpoint", SafeText, nullable=False),
    Column("model", SafeText, nullable=False),
    Column("version", Integer, nullable=False),
    Column("cause", SafeText, nullable=False),
    Column("by", SafeText, nullable=False),
    Column("cleared_by", JsonText, nullable=False),
    Column("break_glass", Boolean, nullable=False),
    Column("from_s", Double, nullable=False),
    Column("until_s", Double),
    Column("bad", Boolean, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.name", "versions.version"]),
    Index("servings_by_endpoint", "endpoint", "id"),
    Index("servings_by_version", "model", "version", "endpoint"),
    Index(
        "one_open_serving",
        "endpoint",
        unique=True,
        sqlite_where=text("until_s IS NULL"),
        postgresql_where=text("until_s IS NULL"),
    ),
)

runs = Table(
    "runs",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("model", SafeText, nullable=False),
    Column("status", SafeText, nullable=False),
    Column("stage", SafeText, nullable=False),
    Column("spec", JsonText, nullable=False),
    Column("results", JsonText, nullable=False),
    Column("version", Integer),
    Column("error", SafeText),
    Column("created_s", Double, nullable=False),
    Column("finished_s", Double),
    Column("created_by", SafeText, nullable=False),
    Index("runs_by_model", "model", "created_s"),
    Index(
        "running_runs",
        "created_s",
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    tables,
    Column("number", SEQUENCE, primary_key=True, autoincrement=False),
    Column("content", SafeText, nullable=False),
)

windows = Table(
    "windows",
    tables,
    Column("endpoint", SafeText, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("arm", SafeText, primary_key=True),
    Column("start_s", Double, primary_key=True, autoincrement=False),
    Column("end_s", Double, primary_key=True, autoincrement=False),
    Column("rows", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("parts", JsonText, nullable=False),
    Column("content", JsonText, nullable=False),
    Index("windows_by_time", "endpoint", "start_s"),
)

baselines = Table(
    "baselines",
    tables,
    Column("endpoint", SafeText, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("content", JsonText, nullable=False),
    Column("at_s", Double, nullable=False),
)

watches = Table(
    "watches",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("endpoint", SafeText, nullable=False),
    Column("spec", JsonText, nullable=False),
    Column("state", JsonText, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("created_by", SafeText, nullable=False),
    Index("watches_by_endpoint", "endpoint", "created_s"),
)

feedback = Table(
    "feedback",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("endpoint", SafeText, nullable=False),
    Column("request_id", SafeText, nullable=False),
    Column("given", JsonText, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("by", SafeText, nullable=False),
    Column("answer", JsonText),
    Column("looked_for", Boolean, nullable=False),
    Column("exported", Boolean, nullable=False),
    Column("history", Boolean, nullable=False, server_default=false()),
    Column("said_s", Double),
    Column("source", SafeText),
    Column("event_id", SafeText),
    Index(
        "feedback_by_event",
        "endpoint",
        "source",
        "event_id",
        unique=True,
        sqlite_where=text("event_id IS NOT NULL"),
        postgresql_where=text("event_id IS NOT NULL"),
    ),
    Index("feedback_by_request", "endpoint", "request_id", "seq"),
    Index(
        "feedback_to_export",
        "endpoint",
        "seq",
        sqlite_where=text("NOT exported"),
        postgresql_where=text("NOT exported"),
    ),
    Index(
        "feedback_to_look_for",
        "endpoint",
        "seq",
        sqlite_where=text("NOT looked_for"),
        postgresql_where=text("NOT looked_for"),
    ),
    Index(
        "feedback_joined",
        "endpoint",
        "seq",
        sqlite_where=text("answer IS NOT NULL"),
        postgresql_where=text("answer IS NOT NULL"),
    ),
)

feedback_totals = Table(
    "feedback_totals",
    tables,
    Column("endpoint", SafeText, primary_key=True),
    Column("given", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("joined", BigInteger, nullable=False),
    Column("unknown", BigInteger, nullable=False),
    Column("history", BigInteger, nullable=False),
)

alerts = Table(
    "alerts",
    tables,
    Column("seq", SEQUENCE, primary_key=True),
    Column("alert_id", SafeText, nullable=False),
    Column("sink_key", SafeText, nullable=False),
    Column("watch", SafeText, nullable=False),
    Column("sink", JsonText, nullable=False),
    Column("message", JsonText, nullable=False),
    Column("state", SafeText, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("due_s", Double, nullable=False),
    Column("ended_s", Double),
    Column("problem", SafeText),
    Index("one_alert_per_sink", "alert_id", "sink_key", unique=True),
    Index("alerts_by_watch", "watch", "seq"),
    Index(
        "alerts_waiting",
        "sink_key",
        "seq",
        sqlite_where=text("state = 'waiting'"),
        postgresql_where=text("state = 'waiting'"),
    ),
)

usage = Table(
    "usage",
    tables,
    Column("start_s", Double, primary_key=True, autoincrement=False),
    Column("width_s", Double, primary_key=True, autoincrement=False),
    Column("kind", SafeText, primary_key=True),
    Column("endpoint", SafeText, primary_key=True),
    Column("model", SafeText, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("arm", SafeText, primary_key=True),
    Column("run", SafeText, primary_key=True),
    Column("node_type", SafeText, primary_key=True),
    Column("currency", SafeText, primary_key=True),
    Column("core_s", Double, nullable=False),
    Column("gpu_s", Double, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
)

bills = Table(
    "bills",
    tables,
    Column("start_s", Double, primary_key=True, autoincrement=False),
    Column("width_s", Double, primary_key=True, autoincrement=False),
    Column("node_type", SafeText, primary_key=True),
    Column("currency", SafeText, primary_key=True),
    Column("node_s", Double, nullable=False),
    Column("core_s", Double, nullable=False),
    Column("gpu_s", Double, nullable=False),
    Column("cost", Double, nullable=False),
)

metering = Table(
    "metering",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("content", JsonText, nullable=False),
)

definitions = Table(
    "definitions",
    tables,
    Column("kind", SafeText, primary_key=True),
    Column("name", SafeText, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("source", JsonText, nullable=False),
    Column("facts", JsonText, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("created_by", SafeText, nullable=False),
)

questions = Table(
    "questions",
    tables,
    Column("id", SafeText, primary_key=True),
    Column("flow", SafeText, nullable=False),
    Column("text", SafeText, nullable=False),
    Column("form", JsonText),
    Column("to", SafeText, nullable=False),
    Column("unanswered", SafeText, nullable=False),
    Column("asked_by", SafeText, nullable=False),
    Column("asked_s", Double, nullable=False),
    Column("until_s", Double),
    Column("status", SafeText, nullable=False),
    Column("answer", JsonText),
    Column("answered_by", SafeText),
    Column("answered_s", Double),
    Column("problem", SafeText),
    Index("questions_by_status", "status", "asked_s"),
)
