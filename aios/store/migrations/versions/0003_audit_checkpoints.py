"""The audit log's signed checkpoints, append-only like the log itself."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the table and the triggers that refuse changes to it."""
    op.create_table(
        "audit_checkpoints",
        sa.Column("number", SEQUENCE, primary_key=True, autoincrement=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_checkpoints_no_{action.lower()} "
                f"BEFORE {action} ON audit_checkpoints "
                "BEGIN SELECT RAISE(ABORT, 'audit checkpoints are never changed or removed'); END"
            )
        # INSERT OR REPLACE removes a row without firing the DELETE trigger.
        op.execute(
            "CREATE TRIGGER audit_checkpoints_appends BEFORE INSERT ON audit_checkpoints "
            "WHEN NEW.number <> (SELECT COALESCE(MAX(number), 0) + 1 FROM audit_checkpoints) "
            "BEGIN SELECT RAISE(ABORT, 'audit checkpoints are only appended'); END"
        )
        return
    op.execute(
        "CREATE TRIGGER audit_checkpoints_no_change "
        "BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()"
    )
