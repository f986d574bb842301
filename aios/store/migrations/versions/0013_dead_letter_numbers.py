"""The numbers of dead letters, which people and the audit log keep, are never given twice: SQLite
gives that of a removed last row again, unless it is told not to. PostgreSQL never does."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table anew, with what is in it."""
    if op.get_bind().dialect.name != "sqlite":
        return
    told = {"sqlite_autoincrement": True}
    with op.batch_alter_table("dead_letters", recreate="always", table_kwargs=told):
        pass
