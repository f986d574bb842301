"""What governance, training and the history of serving keep.

Endpoints no longer hold a previous version: it follows from their servings, which this makes
from the plans that there are.
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables, and give each endpoint that exists its servings so far."""
    _create_governance()
    _create_approvals()
    _create_servings()
    _create_runs()
    _write_servings()
    # Not DROP COLUMN, which SQLite has only since 3.35.
    with op.batch_alter_table("endpoints") as endpoints:
        endpoints.drop_column("previous_version")


def _create_governance() -> None:
    op.create_table(
        "profiles",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("use", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("limits", sa.Text, nullable=False),
        sa.Column("protected", sa.Text, nullable=False),
        sa.Column("declared_s", sa.Double, nullable=False),
        sa.Column("declared_by", sa.Text, nullable=False),
    )
    op.create_table(
        "policies",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
    )
    op.create_index("policies_by_digest", "policies", ["digest", "seq"])
    op.create_table(
        "snapshots",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("taken_s", sa.Double, nullable=False),
    )
    op.create_index("snapshots_by_digest", "snapshots", ["digest", "seq"])
    op.create_table(
        "assessments",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("run", sa.Text),
        sa.Column("artifact_digest", sa.Text, nullable=False),
        sa.Column("snapshot_digest", sa.Text, nullable=False),
        sa.Column("policy_digest", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("results", sa.Text, nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
    )
    op.create_index("assessments_by_version", "assessments", ["name", "version", "seq"])


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("needed", sa.Integer, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("requested_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["name", "version"], ["versions.name", "versions.version"]),
    )
    op.create_index("approvals_by_subject", "approvals", ["subject", "seq"])
    op.create_index("approvals_by_expiry", "approvals", ["expires_s"])
    op.create_table(
        "decisions",
        sa.Column("seq", SEQUENCE, primary_key=True),
        sa.Column("request_id", sa.Text, sa.ForeignKey("approvals.id"), nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
    )
    op.create_index("one_answer_each", "decisions", ["request_id", "by"], unique=True)
    op.create_table(
        "break_glass",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("from_s", sa.Double, nullable=False),
        sa.Column("until_s", sa.Double, nullable=False),
    )
    op.create_index("break_glass_by_end", "break_glass", ["until_s", "name"])


def _create_servings() -> None:
    op.create_table(
        "servings",
        sa.Column("id", SEQUENCE, primary_key=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("cleared_by", sa.Text, nullable=False),
        sa.Column("break_glass", sa.Boolean, nullable=False),
        sa.Column("from_s", sa.Double, nullable=False),
        sa.Column("until_s", sa.Double),
        sa.Column("bad", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], ["versions.name", "versions.version"]),
    )
    op.create_index("servings_by_endpoint", "servings", ["endpoint", "id"])
    op.create_index("servings_by_version", "servings", ["model", "version", "endpoint"])
    op.create_index(
        "one_open_serving",
        "servings",
        ["endpoint"],
        unique=True,
        sqlite_where=sa.text("until_s IS NULL"),
        postgresql_where=sa.text("until_s IS NULL"),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("results", sa.Text, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("finished_s", sa.Double),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_index("runs_by_model", "runs", ["model", "created_s"])
    op.create_index(
        "running_runs",
        "runs",
        ["created_s"],
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )


def _write_servings() -> None:
    connection = op.get_bind()
    servings = sa.table(
        "servings",
        *(
            sa.column(name)
            for name in ("endpoint", "model", "version", "cause", "by", "cleared_by", "from_s")
        ),
        sa.column("until_s"),
        sa.column("bad", sa.Boolean),
        sa.column("break_glass", sa.Boolean),
    )
    for endpoint in connection.execute(sa.text("SELECT * FROM endpoints")).all():
        rows = _servings_so_far(connection, endpoint)
        connection.execute(sa.insert(servings), rows)


def _servings_so_far(connection: sa.Connection, endpoint: Any) -> list[dict[str, Any]]:
    """One row for each time that the endpoint's plans changed their stable version.

    Which versions were taken back was not written down, only the one that a rollback may lead
    to: every other one counts as bad, so that a rollback leads where it led before.
    """
    query = sa.text(
        "SELECT plan, at_s, (SELECT MIN(actor) FROM audit WHERE audit.subject = plans.endpoint "
        "AND audit.at_s = plans.at_s) AS actor FROM plans "
        "WHERE endpoint = :name AND at_s >= :created_s ORDER BY revision"
    )
    bound = {"name": endpoint.name, "created_s": endpoint.created_s}
    stables = []
    for row in connection.execute(query, bound):
        plan = json.loads(row.plan)
        stable = (plan["spec"]["model"], plan["stable"]["version"])
        stables.append((stable, row.at_s, row.actor or "unknown"))
    stables.append(((endpoint.model, endpoint.stable_version), endpoint.updated_s, "unknown"))
    rows: list[dict[str, Any]] = []
    for (model, version), at_s, actor in stables:
        if rows and (rows[-1]["model"], rows[-1]["version"]) == (model, version):
            continue
        if rows:
            rows[-1]["until_s"] = at_s
        served = any((row["model"], row["version"]) == (model, version) for row in rows)
        good = (endpoint.stable_version, endpoint.previous_version)
        rows.append(
            {
                "endpoint": endpoint.name,
                "model": model,
                "version": version,
                "cause": "rollback" if served else "rollout" if rows else "deploy",
                "by": actor,
                "cleared_by": json.dumps({"served_before": "clearance was recorded"}),
                "break_glass": False,
                "from_s": at_s,
                "until_s": None,
                "bad": model != endpoint.model or version not in good,
            }
        )
    return rows
