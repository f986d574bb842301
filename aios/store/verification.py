"""The audit log checked offline: its chain, its checkpoints, and those kept outside.

What is checked may have been written by anybody, so nothing in it makes the check raise, run
without end or fill the memory; it makes the verdict.
"""

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError

from aios.errors import StoreCorrupt, UsageError
from aios.security import signing
from aios.security.signing import PublicKey
from aios.store import audit, tables
from aios.store.checkpoints import MARK_DIGITS, Checkpoint, read_checkpoint
from aios.store.database import Database
from aios.store.merkle import Tree
from aios.store.outside import Outside
from aios.store.verdict import Verdict

_LONGEST_VALUE_BYTES = 2**28
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Unreadable:
    """Stands in a list of rows for the first that the database cannot give."""

    why: str


Row = Sequence[Any] | Unreadable


def verify(
    database: str | Path,
    checkpoints: str | Path | None = None,
    public_key: str | Path | None = None,
) -> Verdict:
    """Check an audit log without the kernel: a copy of its database, or the database itself.

    Nothing is written. A million entries take about 20 s, in constant memory.

    Args:
        database: a SQLite file or its copy (with its `-wal`, if it has one), or a store URL.
        checkpoints: the file kept outside. Without it, a log whose newest entries were cut off
            together with their checkpoints looks sound, and so does an old copy.
        public_key: file with the public key. Without it, a log that was wholly made anew, with
            its checkpoints, looks sound.

    Raises:
        UsageError: a file is not there or cannot be read, or the URL is not one of a store.
        StoreUnavailable: the server does not answer.
    """
    key = None if public_key is None else signing.public_key(Path(public_key))
    # Before the database: checkpoints go there first, so those outside now are all in it.
    outside = None if checkpoints is None else Outside(Path(checkpoints)).lines()
    file = _sqlite_file(database)
    if file is None:
        return _judge_server(str(database), outside, key)
    with (
        closing(_open_sqlite(file)) as connection,
        closing(_sqlite_rows(connection, tables.audit)) as entries,
        closing(_sqlite_rows(connection, tables.audit_checkpoints)) as kept,
    ):
        return judge(entries, kept, outside, key)


def judge(
    entries: Iterable[Row],
    kept: Iterable[Row],
    outside: Iterable[str] | None,
    key: PublicKey | None,
) -> Verdict:
    """The verdict over a log, from wherever it is read.

    Args:
        entries: rows of the table `audit`, in order of `seq`, with any content.
        kept: rows of `audit_checkpoints`, in order of `number`, with any content.
        outside: lines that were kept outside, in their order.
        key: whose signature checkpoints must have; None: signatures are not checked.
    """
    walk = _Walk(entries)
    newest: Checkpoint | None = None
    checked = found_outside = 0
    # A checkpoint's fault that is told unless an entry's is found under its other copy.
    pending: tuple[int, str] | None = None
    reason = None
    lines: Iterable[str] = () if outside is None else outside
    for number, (row, line) in enumerate(zip_longest(kept, lines), start=1):
        seal, fault, old = _seal(row, line, number, newest, key)
        if fault is not None:
            pending = pending or (walk.good + 1, fault)
        if seal is None or (reason := walk.under(seal, old)) is not None:
            break
        newest = seal
        checked += fault is None
        found_outside += line is not None
    if reason is None and pending is None:
        reason = walk.to_the_end()
    first_bad, reason = (walk.good + 1, reason) if reason else pending or (None, None)
    return Verdict(
        sound=reason is None,
        entries=walk.good,
        checkpoints=checked,
        sealed=newest.last_seq if newest else 0,
        outside=None if outside is None else found_outside,
        signed=key is not None,
        first_bad=first_bad,
        reason=reason,
    )


def _seal(
    row: Row | None,
    line: str | None,
    number: int,
    newest: Checkpoint | None,
    key: PublicKey | None,
) -> tuple[Checkpoint | None, str | None, bool]:
    """What is kept as one checkpoint, in the database and outside.

    Returns:
        The checkpoint to judge entries by (None: neither place has a right one), what is wrong
        even if the entries are as it says, and whether the database has gone another way since.
    """
    inside, inside_fault = _kept_row(row, number, newest, key)
    if isinstance(row, Sequence) and inside is not None and row[1] == line:
        return inside, None, False
    outer, outer_fault = (None, None) if line is None else _checked(line, number, newest, key)
    if outer_fault is not None:
        return inside, f"checkpoint {number} outside {outer_fault}", False
    if inside_fault is not None:
        return outer, f"checkpoint {number} in the database {inside_fault}", row is None
    if outer is not None and inside != outer:
        told = f"two different checkpoints {number} are signed, one in the database, one outside"
        return outer, f"{told}: an old copy of the database was put back and went on", True
    return inside, None, False


def _kept_row(
    row: Row | None, number: int, newest: Checkpoint | None, key: PublicKey | None
) -> tuple[Checkpoint | None, str | None]:
    if row is None:
        return None, "is missing, and is there outside"
    if isinstance(row, Unreadable):
        return None, f"cannot be read: {row.why}"
    if len(row) != 2 or type(row[0]) is not int:
        return None, "was edited"
    if row[0] != number:
        return None, "is missing" if row[0] > number else "is there twice, or out of its place"
    return _checked(row[1], number, newest, key)


def _checked(
    content: object, number: int, newest: Checkpoint | None, key: PublicKey | None
) -> tuple[Checkpoint | None, str | None]:
    found = read_checkpoint(content, key)
    if isinstance(found, str):
        return None, found
    after = (newest.last_seq + 1, newest.digest) if newest else (1, audit.START)
    if found.number != number or (found.first_seq, found.previous) != after:
        return None, "does not follow the one before it"
    return found, None


class _Walk:
    """Goes once through the entries, under one checkpoint after the other.

    `good` entries were found right so far; a reason that is given is about the next one.
    """

    def __init__(self, entries: Iterable[Row]) -> None:
        self._entries = iter(entries)
        self._previous = audit.START
        self._tree = Tree()
        self.good = 0

    def under(self, seal: Checkpoint, old: bool) -> str | None:
        """Go to the last entry that a checkpoint covers; what is wrong on the way, or None.

        `old`: the database does not have this checkpoint.
        """
        begun = self.good
        for at in range(0, len(seal.marks), MARK_DIGITS):
            entry = self._next()
            if entry is None:
                return self._cut(seal, old)
            if isinstance(entry, str):
                return entry
            if not entry[7].startswith(seal.marks[at : at + MARK_DIGITS]):
                return self._made_anew(self.good + 1, seal, old)
            self._take(entry)
        if self._tree.root() != seal.root or self._previous != seal.head_hash:
            # The marks were forged, which takes 2**32 tries for each of them.
            self.good = begun
            return self._made_anew(begun + 1, seal, old)
        return None

    def to_the_end(self) -> str | None:
        """Go through the entries that no checkpoint covers, by the chain alone."""
        while (entry := self._next()) is not None:
            if isinstance(entry, str):
                return entry
            self._take(entry)
        return None

    def _next(self) -> Sequence[Any] | str | None:
        """The next entry if the chain says nothing against it, else why not; None at the end."""
        entry = next(self._entries, None)
        if entry is None:
            return None
        if isinstance(entry, Unreadable):
            return f"entry {self.good + 1} cannot be read: {entry.why}"
        return audit.fault(entry, self.good + 1, self._previous) or entry

    def _take(self, entry: Sequence[Any]) -> None:
        self._previous = entry[7]
        self._tree.append(bytes.fromhex(self._previous))
        self.good += 1

    def _cut(self, seal: Checkpoint, old: bool) -> str:
        how = "an old copy of the database was put back, or the end" if old else "the end"
        return (
            f"entry {self.good + 1} is missing, and all after it to entry {seal.last_seq}, which "
            f"checkpoint {seal.number} covers: {how} of the log was cut off"
        )

    def _made_anew(self, seq: int, seal: Checkpoint, old: bool) -> str:
        how = "an old copy of the database was put back and went on, or the" if old else "the"
        return (
            f"entry {seq} is not the one that checkpoint {seal.number} covers: {how} entry was "
            "replaced and the chain after it made anew without the key"
        )


def _judge_server(url: str, outside: Iterable[str] | None, key: PublicKey | None) -> Verdict:
    database = Database(url)
    try:
        with (
            database.reading() as connection,
            closing(_server_rows(connection, tables.audit)) as entries,
            closing(_server_rows(connection, tables.audit_checkpoints)) as kept,
        ):
            return judge(entries, kept, outside, key)
    except StoreCorrupt as error:
        return judge([Unreadable(str(error))], [], None, key)
    except DBAPIError as error:
        told = str(error.orig).splitlines()[:1]
        raise UsageError(f"the audit log cannot be read from {database.place}: {told}") from None
    finally:
        database.close()


def _server_rows(connection: Connection, table: Table) -> Generator[Row, None, None]:
    # Only tables: a view of this name could be a query without an end.
    if table.name not in inspect(connection).get_table_names():
        yield from _absent(table)
        return
    query = select(table).order_by(table.primary_key.columns[0])
    yield from connection.execute(query.execution_options(yield_per=_ROWS_AT_ONCE))


def _absent(table: Table) -> Iterator[Row]:
    # A database from before checkpoints has none, which is no fault of it.
    if table is tables.audit:
        yield Unreadable("this database has no audit log")


def _sqlite_file(database: str | Path) -> Path | None:
    """The file that is meant, or None for a URL of a server."""
    if isinstance(database, Path) or "://" not in database:
        return Path(database)
    try:
        url = make_url(database)
    except ArgumentError:
        return None
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def _open_sqlite(file: Path) -> sqlite3.Connection:
    if not file.is_file():
        raise UsageError(f"there is no database file {file}; give a copy of the store's file")
    # What is in the -wal belongs to the database, and `immutable` would leave it out; without
    # one, nothing but `immutable` opens a database in WAL mode in a folder that is read-only.
    alone = not file.with_name(file.name + "-wal").exists()
    uri = f"{file.resolve().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise UsageError(f"the database {file} cannot be opened: {error}") from None
    connection.text_factory = _decoded
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE_BYTES)
    # One snapshot for entries and checkpoints, should a kernel be writing.
    connection.execute("BEGIN")
    return connection


def _sqlite_rows(connection: sqlite3.Connection, table: Table) -> Generator[Row, None, None]:
    names = ", ".join(column.name for column in table.columns)
    order = table.primary_key.columns[0].name
    try:
        kinds = connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table.name,)
        ).fetchone()
        # Neither a view nor a virtual table, which could be a query without an end.
        if kinds is None or not str(kinds[0]).upper().startswith("CREATE TABLE"):
            yield from _absent(table)
            return
        yield from connection.execute(f"SELECT {names} FROM {table.name} ORDER BY {order}")
    except (sqlite3.Error, ValueError, MemoryError) as error:
        # ValueError: SQLite quotes what is damaged, and that need not be text.
        yield Unreadable(f"{type(error).__name__}: {str(error)!a}")


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
