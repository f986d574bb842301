"""The technicians' own system, which aios only calls: a SQLite file of reservations.

It stands in for a service company's. It knows each call by the key that came with it, so that a
call which is made twice, as after a crash, does once what it does; and it counts the calls.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TECHNICIANS = ("Ada", "Bela", "Chao", "Dina", "Emil", "Fatou")
_TABLES = """
CREATE TABLE IF NOT EXISTS reservations (
    key TEXT PRIMARY KEY, intervention TEXT NOT NULL, machine TEXT NOT NULL,
    technician TEXT NOT NULL, state TEXT NOT NULL, reserved_s REAL NOT NULL, ended_s REAL);
CREATE TABLE IF NOT EXISTS calls (what TEXT NOT NULL, key TEXT NOT NULL, at_s REAL NOT NULL);
"""


class NobodyFree(Exception):
    """All technicians are reserved; somebody will be free later."""


def make(path: Path) -> None:
    """A new roster."""
    with _open(str(path)) as database:
        database.executescript(_TABLES)


def reserve(path: str, key: str, intervention: str, machine: str) -> str:
    """Reserve somebody who is free; who. Under the same key it is the same reservation.

    Raises:
        NobodyFree: try again later.
    """
    with _open(path) as database:
        _count(database, "reserve", key)
        found = database.execute(
            "SELECT technician FROM reservations WHERE key = ?", (key,)
        ).fetchone()
        if found is not None:
            return str(found[0])
        query = "SELECT technician FROM reservations WHERE state = 'reserved'"
        busy = {one for (one,) in database.execute(query)}
        free = [one for one in TECHNICIANS if one not in busy]
        if not free:
            raise NobodyFree("all technicians are reserved")
        row = (key, intervention, machine, free[0], "reserved", time.time(), None)
        database.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return free[0]


def release(path: str, key: str) -> None:
    """Take a reservation back; one that was used or taken back stays so."""
    _end(path, key, "released")


def use(path: str, key: str) -> None:
    """The technician was there."""
    _end(path, key, "used")


def reservations(path: Path) -> list[dict[str, Any]]:
    """All of them, oldest first."""
    with _open(str(path)) as database:
        database.row_factory = sqlite3.Row
        query = "SELECT * FROM reservations ORDER BY reserved_s"
        return [dict(row) for row in database.execute(query)]


def calls(path: Path) -> list[tuple[str, str]]:
    """What was called with which key, in order."""
    with _open(str(path)) as database:
        return list(database.execute("SELECT what, key FROM calls ORDER BY at_s"))


def _end(path: str, key: str, state: str) -> None:
    with _open(path) as database:
        _count(database, state, key)
        update = (
            "UPDATE reservations SET state = ?, ended_s = ? WHERE key = ? AND state = 'reserved'"
        )
        database.execute(update, (state, time.time(), key))


def _count(database: sqlite3.Connection, what: str, key: str) -> None:
    database.execute("INSERT INTO calls VALUES (?, ?, ?)", (what, key, time.time()))


@contextmanager
def _open(path: str) -> Iterator[sqlite3.Connection]:
    """One transaction, alone: two flows must not reserve the same person."""
    database = sqlite3.connect(path, timeout=30.0, isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        yield database
        if database.in_transaction:
            database.execute("COMMIT")
    finally:
        database.close()
