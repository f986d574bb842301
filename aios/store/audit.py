"""The audit chain: every entry seals all entries before it.

`hash = sha256(previous hash + canonical JSON of the entry)`. The chain shows any edit,
insertion, removal or reordering of entries. It cannot show that the newest entries were cut
off, nor that somebody rewrote every hash from one entry on: that needs a copy of the newest
hash kept elsewhere (`head`).
"""

import hashlib
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from aios.errors import UsageError
from aios.store.canonical import canonical
from aios.store.tables import audit

START = "0" * 64
"""What stands in `previous` of the first entry."""

_LONGEST_NAME = 300


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
    entry = {
        "seq": last_seq + 1,
        "at_s": float(at_s),
        "actor": actor,
        "action": action,
        "subject": subject,
        "details": canonical(details),
    }
    sealed = {"previous": previous, "hash": _seal(previous, entry)}
    connection.execute(insert(audit).values(**entry, **sealed))
    return last_seq + 1


def head(connection: Connection) -> tuple[int, str]:
    """Number and hash of the newest entry; (0, START) when there is none."""
    query = select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
    row = connection.execute(query).first()
    return (row.seq, row.hash) if row else (0, START)


def verify(connection: Connection) -> int | None:
    """Check the whole chain; None if it is sound, else the number of the first bad entry.

    An entry that is missing counts as the first bad one.
    """
    expected, previous = 1, START
    query = select(audit).order_by(audit.c.seq).execution_options(yield_per=1000)
    for row in connection.execute(query):
        if row.seq != expected or row.previous != previous or row.hash != _reseal(row):
            return expected
        expected, previous = expected + 1, row.hash
    return None


def _seal(previous: str, entry: dict[str, Any]) -> str:
    return hashlib.sha256((previous + canonical(entry)).encode("ascii")).hexdigest()


def _reseal(row: Row[*tuple[Any, ...]]) -> str | None:
    names = ("seq", "at_s", "actor", "action", "subject", "details")
    try:
        return _seal(row.previous, {name: getattr(row, name) for name in names})
    except (UsageError, TypeError, ValueError):
        # SQLite lets anybody with the file put bytes or infinity in any column.
        return None
