"""SQLite under stress: killed writers, full disks, damaged files, edited audit rows."""

import hashlib
import os
import random
import select
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from aios.errors import StoreCorrupt, StoreUnavailable, UsageError
from aios.records import Artifact
from aios.registry import Registry
from aios.store import audit, tables
from aios.store.canonical import canonical
from aios.store.database import Database
from aios.store.files import begin_file

CRASH_ROUNDS = int(os.environ.get("CRASH_ROUNDS", "20"))
ARTIFACT = Artifact(digest="a" * 64, engine="onnx", size_bytes=10)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path}/home/aios.db")
    database.upgrade()
    return database


def write_until_killed(url: str, acknowledge: int) -> None:
    """Register versions for ever; a byte goes out after each change that is on disk."""
    registry = Registry(Database(url))
    for number in range(10**9):
        with registry.change(
            actor="ana", action="register", subject="loan", operation_id=f"{os.getpid()}-{number}"
        ) as change:
            made = change.register("loan", ARTIFACT, {"padding": "x" * 3000}, "c" * 64)
            change.set_alias("loan", "newest", made.version)
            change.remember({"version": made.version})
        os.write(acknowledge, b".")


def kill_a_writer(url: str, chance: random.Random) -> int:
    """Start a writer, kill it with SIGKILL at a random instant; how much it acknowledged."""
    acknowledged, acknowledge = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            write_until_killed(url, acknowledge)
        finally:
            os._exit(1)
    os.close(acknowledge)
    seen = len(os.read(acknowledged, 1))
    for _ in range(chance.randrange(6)):
        seen += len(os.read(acknowledged, 1))
    # Waits a random part of a change for a byte that it leaves in the pipe.
    select.select([], [], [], chance.random() * 0.01)
    os.kill(writer, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(writer, 0)[1]) == signal.SIGKILL
    while rest := os.read(acknowledged, 4096):
        seen += len(rest)
    os.close(acknowledged)
    return seen


def test_a_killed_writer_loses_nothing_acknowledged_and_tears_nothing(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/aios.db"
    database = Database(url)
    database.upgrade()
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(CRASH_ROUNDS):
        # A connection to SQLite must not be carried into a forked process.
        database.close()
        before = acknowledged
        acknowledged += kill_a_writer(url, chance)
        assert acknowledged > before
        database.upgrade()
        registry = Registry(database)
        versions = [v.version for v in registry.versions("loan")]
        entries = registry.audit(limit=10**6)
        assert len(versions) >= acknowledged
        assert versions == list(range(1, len(versions) + 1))
        assert [entry.details["version"] for entry in entries] == versions[::-1]
        assert registry.aliases("loan") == {"newest": versions[-1]}
        with database.reading() as connection:
            kept = connection.execute(text("SELECT count(*) FROM operations")).scalar_one()
            assert kept == len(versions)
            assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert registry.verify_audit() is None
        # The change that was on its way when its writer died may be there, whole, or not.
        assert len(versions) - acknowledged <= 1
        acknowledged = len(versions)
    database.close()


def test_a_full_disk_refuses_the_change_whole_and_mends_by_itself(database: Database):
    registry = Registry(database)
    with registry.change(actor="ana", action="test", subject="loan") as change:
        change.register("loan", ARTIFACT, {}, "c" * 64)
    pages: list[int] = []

    def limit(connection: Any, _record: Any) -> None:
        if pages:
            connection.execute(f"PRAGMA max_page_count={pages[0]}")

    event.listen(database._engine, "connect", limit)
    with database.reading() as connection:
        pages.append(connection.execute(text("PRAGMA page_count")).scalar_one())
    database.close()

    def fill() -> None:
        with registry.change(actor="ana", action="test", subject="loan") as change:
            change.register("loan", ARTIFACT, {}, "c" * 64)
            change.register("loan", ARTIFACT, {"padding": "x" * 100_000}, "c" * 64)

    for _ in range(2):
        with pytest.raises(
            StoreUnavailable, match=r"aios\.db cannot be used now: the disk is full"
        ):
            fill()
        assert registry.version("loan").version == 1
        assert len(registry.audit()) == 1
    pages.clear()
    database.close()
    fill()
    assert registry.version("loan").version == 3
    assert registry.verify_audit() is None


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"SQLite format 3\0" + b"x" * 5000]
)
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "aios.db"
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=str(path)):
        Database(f"sqlite:///{path}").upgrade()
    assert path.read_bytes() == content


def test_damaged_pages_are_found_at_the_next_start(database: Database):
    with Registry(database).change(actor="ana", action="test", subject="loan") as change:
        change.register("loan", ARTIFACT, {"padding": "x" * 50_000}, "c" * 64)
    with sqlite3.connect(str(database.place)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    database.close()
    path = Path(str(database.place))
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 20] = b"\xff" * (4096 * 18)
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"aios\.db is damaged"):
        database.upgrade()


def test_a_store_that_cannot_be_opened_says_why(tmp_path: Path):
    (tmp_path / "aios.db").mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}/aios.db").upgrade()
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        Database(f"sqlite:///{tmp_path}/file/aios.db")


@pytest.mark.parametrize(
    "url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://host/name", "http://x"]
)
def test_an_unusable_url_is_a_usage_error(url: str):
    with pytest.raises(UsageError):
        Database(url)


def test_every_connection_is_durable_and_checks_foreign_keys(database: Database):
    with database.reading() as connection:
        asked = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert asked == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }


def fill_audit(database: Database, count: int) -> None:
    with database.transaction() as connection:
        for number in range(count):
            names = {"actor": "ana", "action": "test", "subject": f"loan{number % 3}"}
            details = {"n": number}
            audit.append(connection, at_s=1000.5 + number, details=details, **names)


def test_replacing_an_audit_row_is_refused(database: Database):
    fill_audit(database, 3)
    for statement in (
        "INSERT OR REPLACE INTO audit SELECT seq, at_s, 'eve', action, subject, details, "
        "previous, hash FROM audit WHERE seq = 2",
        "INSERT INTO audit SELECT seq + 5, at_s, actor, action, subject, details, previous, hash "
        "FROM audit WHERE seq = 1",
    ):
        with pytest.raises(Exception, match="only appended"), database.transaction() as connection:
            connection.execute(text(statement))


def mutate(connection: Any, chance: random.Random, count: int) -> int:
    """One random edit of an audit table without triggers; the first entry that is now bad."""
    seq = chance.randrange(1, count)
    kind = chance.choice(("edit", "edit", "type", "delete", "swap", "insert", "reseal"))
    if kind == "edit":
        column = chance.choice([c.name for c in tables.audit.columns if c.name != "seq"])
        old = connection.execute(text(f"SELECT {column} FROM audit WHERE seq = {seq}")).scalar_one()
        new: object = old + chance.choice((1e-6, -1.0)) if column == "at_s" else flip(old, chance)
        connection.execute(
            text(f"UPDATE audit SET {column} = :new WHERE seq = {seq}"), {"new": new}
        )
    elif kind == "type":
        column = chance.choice(("actor", "details", "hash", "previous", "at_s"))
        new = chance.choice((b"\xff\x00", 9e999, "\u00e9"))
        connection.execute(
            text(f"UPDATE audit SET {column} = :new WHERE seq = {seq}"), {"new": new}
        )
    elif kind == "reseal":
        row = connection.execute(text(f"SELECT * FROM audit WHERE seq = {seq}")).one()._asdict()
        entry = {name: row[name] for name in row if name not in ("previous", "hash")}
        entry["actor"] = "eve"
        seal = hashlib.sha256((row["previous"] + canonical(entry)).encode()).hexdigest()
        connection.execute(
            text(f"UPDATE audit SET actor = 'eve', hash = :seal WHERE seq = {seq}"), {"seal": seal}
        )
        return seq + 1
    elif kind == "delete":
        connection.execute(text(f"DELETE FROM audit WHERE seq = {seq}"))
    elif kind == "swap":
        for step in (
            f"-1 WHERE seq = {seq}",
            f"{seq} WHERE seq = {seq + 1}",
            f"{seq + 1} WHERE seq = -1",
        ):
            connection.execute(text(f"UPDATE audit SET seq = {step}"))
    else:
        connection.execute(text(f"UPDATE audit SET seq = -seq WHERE seq > {seq}"))
        connection.execute(text("UPDATE audit SET seq = 1 - seq WHERE seq < 0"))
        connection.execute(
            text(
                f"INSERT INTO audit SELECT {seq + 1}, at_s, actor, action, subject, details, "
                f"previous, hash FROM audit WHERE seq = {seq}"
            )
        )
        return seq + 1
    return seq


def flip(value: str, chance: random.Random) -> str:
    at = chance.randrange(len(value))
    return value[:at] + chr(ord(value[at]) ^ 1 << chance.randrange(3)) + value[at + 1 :]


class Undo(Exception):
    """Raised to roll a transaction back."""


def test_the_verifier_names_the_first_bad_entry(database: Database):
    count = 12
    fill_audit(database, count)
    with database.transaction() as connection:
        for name in ("audit_no_update", "audit_no_delete", "audit_appends"):
            connection.execute(text(f"DROP TRIGGER {name}"))
        assert audit.verify(connection) is None
    chance = random.Random(11)
    for _ in range(200):

        def tamper() -> None:
            with database.transaction() as connection:
                first_bad = mutate(connection, chance, count)
                assert audit.verify(connection) == first_bad
                raise Undo

        with pytest.raises(Undo):
            tamper()
    with database.reading() as connection:
        assert audit.verify(connection) is None


def test_a_stored_value_that_fits_no_record_is_corruption_not_a_traceback(database: Database):
    with Registry(database).change(actor="ana", action="test", subject="loan") as change:
        change.register("loan", ARTIFACT, {}, "c" * 64)
    for value in ("{}", "not json", "[1]"):
        with database.transaction() as connection:
            connection.execute(text("UPDATE versions SET artifact = :value"), {"value": value})
        with pytest.raises(StoreCorrupt):
            Registry(database).version("loan:1")


def test_a_defect_of_ours_is_not_taken_for_a_fault_of_the_store(database: Database):
    with pytest.raises(Exception, match="no such table") as caught, database.transaction() as c:
        c.execute(text("SELECT * FROM absent"))
    assert not isinstance(caught.value, StoreUnavailable | StoreCorrupt)
    row = {"rollout_id": "r9", "era": "e", "at_s": 1.0, "payload": {}}
    with pytest.raises(Exception, match="FOREIGN KEY"), database.transaction() as connection:
        connection.execute(insert(tables.evidence).values(**row))


def test_a_database_in_a_file_is_its_owners_alone(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/aios.db")
    with database.transaction() as connection:
        connection.exec_driver_sql("create table t (a int)")
    begin_file(tmp_path / "flows.db")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.keys() >= {"aios.db", "aios.db-wal", "flows.db"}
    assert set(modes.values()) == {0o600}
    database.close()
