"""Files of SQLite that only their owner reads."""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path


def begin_file(path: str | Path) -> None:
    """A SQLite file for others' tables: only its owner reads it, and it has a WAL, which is a
    property of the file. One that is there keeps its rights."""
    owned(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def owned(path: str | Path) -> None:
    """An empty file that only its owner reads, if there is none. SQLite gives the files that it
    makes beside it the same rights."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
