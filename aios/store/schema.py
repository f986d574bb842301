"""Migrations, run by Alembic from inside the package, so that a wheel needs nothing beside it."""

from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection

from aios.errors import UsageError
from aios.store import agent_tables, event_tables

VERSION_TABLE = "aios_schema"
"""Not Alembic's default name: the database may also hold another program's migrations."""

_OURS = {**agent_tables.agents.metadata.tables, **event_tables.inbox.metadata.tables}
_FOLDER = Path(__file__).parent / "migrations"


def upgrade(connection: Connection, place: str) -> None:
    """Run the migrations that are missing, inside the caller's transaction.

    Raises:
        UsageError: the schema is newer than this code, or there are tables that are not ours.
    """
    # Only a start needs Alembic, which takes 0.3 s to import.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    here = set(context.get_current_heads())
    if here - set(known):
        raise UsageError(
            f"the store {place} was written by a newer aios: its schema is {sorted(here)[0]}, "
            f"this aios knows up to {known[0]}. Upgrade aios, or use another store."
        )
    if not here:
        _refuse_foreign_tables(connection, place)
    if known[0] not in here:
        command.upgrade(config, "head")


def _refuse_foreign_tables(connection: Connection, place: str) -> None:
    taken = set(sqlalchemy.inspect(connection).get_table_names()) & set(_OURS)
    if taken:
        raise UsageError(
            f"the store {place} has tables of another program ({', '.join(sorted(taken))}); "
            "give aios a database of its own"
        )
