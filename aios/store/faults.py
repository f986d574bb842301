"""What a database driver's error means to the caller: try again, or tell a person."""

import sqlite3
import time
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from aios.errors import AiosError, StoreCorrupt, StoreUnavailable

DRIVER_ERRORS = (DBAPIError, sqlite3.Error)

_SQLITE_WAIT = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "the disk does not take writes; check space and hardware",
    sqlite3.SQLITE_BUSY: "another process holds it; end that process or wait",
    sqlite3.SQLITE_LOCKED: "another connection holds it; wait",
    sqlite3.SQLITE_READONLY: "it may only be read; check the file's owner and mode",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the path, its owner and mode",
    sqlite3.SQLITE_PERM: "access is denied; check the file's owner and mode",
    sqlite3.SQLITE_NOMEM: "memory is exhausted",
}
_SQLITE_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_POSTGRES_WAIT = {
    "08": "the connection was lost",
    "40": "another transaction got in the way",
    "53": "the server is out of disk, memory or connections",
    "55": "another process holds the lock",
    "57": "the server is stopping or starting",
    "58": "the server's disk does not answer",
}
"""By class of SQLSTATE, PostgreSQL manual, appendix A."""


def explain(error: BaseException | None, place: str) -> AiosError | None:
    """The error of ours that a driver's error stands for, or None if it is a defect of ours."""
    if isinstance(error, sqlite3.Error):
        return _explain_sqlite(error, place)
    state = getattr(error, "sqlstate", None)
    if state is None:
        # psycopg gives no SQLSTATE to what the server did not say itself.
        if type(error).__name__ in ("OperationalError", "ConnectionTimeout"):
            return _unavailable(place, f"the server does not answer ({_first_line(error)})")
        return None
    if state.startswith("XX"):
        return StoreCorrupt(f"the store {place} is damaged ({_first_line(error)})")
    if state[:2] in _POSTGRES_WAIT:
        return _unavailable(place, f"{_POSTGRES_WAIT[state[:2]]} ({_first_line(error)})")
    if state[:2] in ("28", "3D"):
        return _unavailable(place, f"the server refuses us ({_first_line(error)})")
    return None


def retry_busy(attempt: Callable[[], object], wait_s: float) -> None:
    """Repeat while SQLite says busy: turning WAL on does not honour SQLite's own timeout."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            attempt()
        except sqlite3.OperationalError as error:
            busy = _code(error) == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
        else:
            return


def _explain_sqlite(error: sqlite3.Error, place: str) -> AiosError | None:
    code = _code(error)
    if code in _SQLITE_CORRUPT:
        return StoreCorrupt(
            f"the store {place} is damaged ({error}); move the file away and restore a backup"
        )
    if code in _SQLITE_WAIT:
        return _unavailable(place, _SQLITE_WAIT[code])
    return None


def _code(error: sqlite3.Error) -> int:
    # The low byte is the class of the error, the rest a subclass.
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _unavailable(place: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(f"the store {place} cannot be used now: {why}. Nothing was changed.")


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0][:200]
