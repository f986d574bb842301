"""One database behind one door: SQLite in WAL mode, or PostgreSQL, with the same code."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, StatementError

from aios.errors import AiosError, StoreCorrupt, StoreUnavailable, UsageError
from aios.store import faults, schema
from aios.store.files import owned

_WAIT_S = 10
"""How long a writer waits for another one, and a connection for its server: longer than
any transaction of ours takes, shorter than a caller's patience."""
_CACHE_KIB = 512
"""What a connection to SQLite keeps in memory; the operating system caches the file anyway."""

_WRITERS_LOCK = 0x61696F73
"""Key of PostgreSQL's advisory lock under which all writes happen ("aios" in ASCII)."""


class Database:
    """Transactions on SQLite or PostgreSQL, safe to share between threads.

    All write transactions of all processes are serialised (SQLite by its own lock,
    PostgreSQL by an advisory lock), so a decision taken on what a transaction read is still
    right when it commits. Reads never wait for writes.

    Args:
        url: `sqlite:///path`, `postgresql://...` or `postgresql+psycopg://...`. A folder that
            does not exist is made.

    Raises:
        UsageError: the URL is neither, or the PostgreSQL driver is not installed.
        StoreUnavailable: the folder of the SQLite file cannot be made.
    """

    def __init__(self, url: str) -> None:
        self.url = _parse(url)
        self.kind = self.url.get_backend_name()
        self.place = self.url.database if self.kind == "sqlite" else repr(self.url)
        self._threads_lock = threading.Lock()
        self._here = threading.local()
        self._engine = self._make_engine()

    def upgrade(self) -> None:
        """Bring the schema to what this code needs; nothing happens if it is there already.

        All migrations run in one transaction, under the writers' lock: a crash leaves the
        old schema, and a second process that upgrades at the same time waits, then sees that
        nothing is left to do.

        Raises:
            UsageError: the database was written by a newer aios, or is not ours.
            StoreCorrupt: the database is damaged; the message names the file.
            StoreUnavailable: it cannot be reached or written now.
        """
        with self.transaction() as connection:
            if self.kind == "sqlite":
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
                if found != "ok":
                    raise StoreCorrupt(
                        f"the store {self.place} is damaged ({found}); restore a backup of it"
                    )
            schema.upgrade(connection, str(self.place))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: committed when the block ends, rolled back if it raises.

        When the block has ended without an exception the change is on disk.

        Raises:
            UsageError: this thread is inside another write transaction.
            StoreUnavailable: disk full, locked for too long, or not reachable; nothing changed.
            StoreCorrupt: the database is damaged.
        """
        if getattr(self._here, "writing", False):
            raise UsageError("a write transaction is open in this thread; use that one")
        with self._threads_lock:
            self._here.writing = True
            try:
                with self._connected(writes=True) as connection:
                    if self.kind == "postgresql":
                        connection.exec_driver_sql(
                            "SELECT pg_advisory_xact_lock(%s)", (_WRITERS_LOCK,)
                        )
                    yield connection
            finally:
                self._here.writing = False

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, on one consistent snapshot; never waits for writers."""
        with self._connected(writes=False) as connection:
            yield connection

    def close(self) -> None:
        """Close all idle connections. The database can still be used and opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _connected(self, writes: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(aios_writes=writes)
                with connection.begin():
                    yield connection
        except StatementError as error:
            if isinstance(error.orig, AiosError):
                raise error.orig from None
            raise self._explained(error) from error
        except faults.DRIVER_ERRORS as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> Exception:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return faults.explain(cause, str(self.place)) or error

    def _make_engine(self) -> Engine:
        if self.kind == "sqlite":
            folder = Path(str(self.url.database)).parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"the store's folder cannot be made: {error}") from error
            engine = sqlalchemy.create_engine(self.url, connect_args={"timeout": _WAIT_S})
            event.listen(engine, "do_connect", _make_private)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        try:
            engine = sqlalchemy.create_engine(
                self.url,
                pool_pre_ping=True,
                connect_args={
                    "connect_timeout": _WAIT_S,
                    "options": f"-c lock_timeout={_WAIT_S}s -c application_name=aios",
                },
            )
        except ImportError:
            raise UsageError("PostgreSQL needs its driver: pip install 'aios[postgres]'") from None
        event.listen(engine, "begin", _begin_postgresql)
        return engine


def _parse(url: str) -> URL:
    try:
        parsed = sqlalchemy.make_url(url)
    except ArgumentError:
        raise UsageError(
            "this store URL cannot be read; use sqlite:////absolute/path or postgresql://host/name"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    raise UsageError(f"store {parsed!r} is not supported; use a SQLite file or PostgreSQL")


def _make_private(_dialect: Any, _record: Any, arguments: list[Any], _named: Any) -> None:
    with suppress(OSError):  # SQLite says it better
        owned(arguments[0])


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # SQLAlchemy begins transactions itself (see _begin_sqlite), not the sqlite3 module.
    connection.isolation_level = None
    cursor = connection.cursor()
    faults.retry_busy(lambda: cursor.execute("PRAGMA journal_mode=WAL"), _WAIT_S)
    # FULL: an acknowledged change survives a power cut; NORMAL would lose the last ones.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # Each connection of the pool keeps pages of its own, 2 MiB of them as SQLite comes.
    cursor.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the writers' lock first; a transaction that reads and then writes
    # would otherwise fail at once when another one wrote in between.
    writes = connection.get_execution_options().get("aios_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    # Writers must see what was committed while they waited for the lock; readers want one
    # snapshot over several statements, as SQLite gives it.
    if not connection.get_execution_options().get("aios_writes", False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
