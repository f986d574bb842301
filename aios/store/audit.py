"""The audit chain: every entry seals all entries before it.

`hash = sha256(previous hash + canonical JSON of the entry)`. The chain shows any edit,
insertion, removal or reordering of entries. It cannot show that the newest entries were cut
off, nor that somebody rewrote every hash from one entry on: `store.checkpoints` does.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, text

from aios.errors import UsageError
from aios.store.canonical import canonical
from aios.store.database import Database
from aios.store.tables import audit

START = "0" * 64
"""What stands in `previous` of the first entry."""

_LONGEST_NAME = 300
_NAMES = ("seq", "at_s", "actor", "action", "subject", "details")
_TYPES = (int, float, str, str, str, str, str, str)

# Made once: building a statement anew costs more than executing it.
_ADD = insert(audit)
_NEWEST = select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
_ALL = select(*(audit.c[name] for name in (*_NAMES, "previous", "hash"))).order_by(audit.c.seq)


def append(
    connection: Connection,
    *,
    at_s: float,
    actor: str,
    action: str,
    subject: str,
    details: dict[str, Any],
) -> int:
    """Add an entry in the caller's write transaction and return its number.

    Raises:
        UsageError: a name is empty, too long or not printable, or details are not JSON.
    """
    for what, name in (("actor", actor), ("action", action), ("subject", subject)):
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise UsageError(
                f"{what} {name[:60]!r} cannot stand in the audit log: give 1 to "
                f"{_LONGEST_NAME} printable characters"
            )
    last_seq, previous = head(connection)
    values = (last_seq + 1, float(at_s), actor, action, subject, canonical(details))
    entry = dict(zip(_NAMES, values, strict=True))
    sealed = {"previous": previous, "hash": _seal(previous, entry)}
    connection.execute(_ADD, {**entry, **sealed})
    return last_seq + 1


def head(connection: Connection) -> tuple[int, str]:
    """Number and hash of the newest entry; (0, START) when there is none."""
    row = connection.execute(_NEWEST).first()
    return (row.seq, row.hash) if row else (0, START)


def fault(entry: Sequence[Any], expected: int, previous: str) -> str | None:
    """What is wrong with an entry, as the one after that with the hash `previous`.

    Args:
        entry: its columns in the table's order, of any content: whoever has the file can put
            anything in any column.
        expected: the number it should have.

    Returns:
        None if nothing is wrong.
    """
    if len(entry) != len(_TYPES) or any(
        type(value) is not kind for value, kind in zip(entry, _TYPES, strict=True)
    ):
        return f"entry {expected} was edited: it holds what no entry holds"
    seq, stated_previous, stated_hash = entry[0], entry[6], entry[7]
    if seq > expected:
        return f"entry {expected} is missing: the one that follows is entry {seq}"
    if seq < expected:
        return f"entry {seq} is there twice, or out of its place"
    follows = stated_previous == previous
    if stated_hash != _reseal(entry):
        told = "was edited" if follows else "was edited, inserted or put in another's place"
        return f"entry {expected} {told}: its hash is not that of its content"
    if not follows:
        return f"entry {expected} does not follow entry {expected - 1}: one of the two was replaced"
    return None


def verify(connection: Connection) -> int | None:
    """Check the whole chain; None if it is sound, else the number of the first bad entry.

    An entry that is missing counts as the first bad one.
    """
    expected, previous = 1, START
    for row in connection.execute(_ALL.execution_options(yield_per=1000)):
        if fault(row, expected, previous) is not None:
            return expected
        expected, previous = expected + 1, row.hash
    return None


def restrict(database: Database, role: str) -> None:
    """Let a PostgreSQL role do all that aios does, except change or remove audit entries.

    Run it as the owner of the tables after every upgrade, and run aios as the other role. The
    triggers refuse such changes to everybody, but an owner could drop them.

    Raises:
        UsageError: not PostgreSQL; there is no such role; or it could take the owner's rights.
    """
    if database.kind != "postgresql":
        raise UsageError(
            "only PostgreSQL has roles; a SQLite file is its owner's, so rely on checkpoints "
            "outside of the database there"
        )
    with database.transaction() as connection:
        owners = connection.execute(_MAY_OWN, {"role": role}).first()
        if owners is None:
            raise UsageError(f"the database has no role {role!r}: CREATE ROLE it first")
        if owners.may_own:
            raise UsageError(
                f"role {role!r} owns the audit log, its schema or its database, or can act as the "
                "owner, and could undo every limit: give a role that is neither superuser nor a "
                "member of the owner's"
            )
        quote = connection.dialect.identifier_preparer.quote_identifier
        schema, name = quote(owners.schema), quote(role)
        for statement in _GRANTS:
            connection.exec_driver_sql(statement.format(schema=schema, role=name))


_MAY_OWN = text(
    "SELECT current_schema() AS schema, EXISTS (SELECT FROM pg_class c WHERE "
    "c.relnamespace = current_schema()::regnamespace AND c.relname IN "
    "('audit', 'audit_checkpoints') AND pg_has_role(r.oid, c.relowner, 'MEMBER')) OR EXISTS ("
    "SELECT FROM pg_namespace n WHERE n.nspname = current_schema() AND "
    "pg_has_role(r.oid, n.nspowner, 'MEMBER')) OR EXISTS ("
    "SELECT FROM pg_database d WHERE d.datname = current_database() AND "
    "pg_has_role(r.oid, d.datdba, 'MEMBER')) AS may_own "
    "FROM pg_roles r WHERE r.rolname = :role"
)
_GRANTS = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
    "REVOKE ALL ON {schema}.audit, {schema}.audit_checkpoints FROM {role}, PUBLIC",
    "GRANT SELECT, INSERT ON {schema}.audit, {schema}.audit_checkpoints TO {role}",
)


def _seal(previous: str, entry: dict[str, Any]) -> str:
    return hashlib.sha256((previous + canonical(entry)).encode("ascii")).hexdigest()


def _reseal(entry: Sequence[Any]) -> str | None:
    try:
        return _seal(entry[6], dict(zip(_NAMES, entry, strict=False)))
    except (UsageError, ValueError):
        # Infinity, or a `previous` that is not ASCII.
        return None
