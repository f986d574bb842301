"""Numbers that people, audit log and tools keep are never given twice: SQLite gives that of a
removed last row again, unless it is told not to. PostgreSQL never does."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables anew, with what is in them."""
    if op.get_bind().dialect.name != "sqlite":
        return
    for name in ("dead_letters", "mailbox"):
        told = {"sqlite_autoincrement": True}
        with op.batch_alter_table(name, recreate="always", table_kwargs=told):
            pass
