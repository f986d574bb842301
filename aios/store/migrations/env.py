"""Alembic's entry: migrate on the connection that `aios.store.schema` passes in."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
