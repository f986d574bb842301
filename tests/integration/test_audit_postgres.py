"""The audit log on a real PostgreSQL: its triggers, a role that may not change it, its proof."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from aios.cli import app
from aios.clock import ManualClock
from aios.errors import StoreUnavailable, UsageError
from aios.registry import Registry
from aios.security.signing import signing_key
from aios.store import audit
from aios.store.checkpoints import Checkpointer
from aios.store.database import Database
from aios.store.outside import Outside
from aios.store.verdict import Verdict
from aios.store.verification import verify
from tests.postgres_server import running_postgres

WHO = {"actor": "ana", "action": "test", "subject": "loan"}


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with running_postgres() as url:
        yield url


class Store:
    """A database with 30 entries and 3 checkpoints, as its owner and its attackers see it."""

    def __init__(self, server_url: str, name: str, folder: Path) -> None:
        with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        self.url = f"{server_url}/{name}"
        self.name = name
        self.file, self.key = folder / "checkpoints.jsonl", folder / "ed25519.key"
        self.database = Database(self.url)
        self.database.upgrade()
        checkpointer = Checkpointer(
            self.database, signing_key(self.key), Outside(self.file), ManualClock(1000.0)
        )
        for number in range(30):
            with self.database.transaction() as connection:
                audit.append(connection, at_s=0.1 + number, details={"n": number}, **WHO)
            if number % 10 == 9:
                assert checkpointer.seal() == 1

    def superuser(self, *statements: str) -> None:
        with psycopg.connect(self.url) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]

    def verdict(self) -> Verdict:
        return verify(self.url, self.file, Path(f"{self.key}.pub"))


@pytest.fixture(scope="module")
def store(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(server_url, "audited", tmp_path_factory.mktemp("store"))
    yield made
    made.database.close()


@pytest.mark.parametrize("table", ["audit", "audit_checkpoints"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {}", "DELETE FROM {} WHERE false"],
)
def test_nobody_changes_what_was_written(store: Store, table: str, statement: str) -> None:
    column = "seq" if table == "audit" else "number"
    with (
        pytest.raises(DBAPIError, match="never changed or removed"),
        store.database.transaction() as connection,
    ):
        connection.exec_driver_sql(statement.format(table, column, column))


def test_the_log_is_verified_over_the_network(store: Store) -> None:
    verdict = store.verdict()
    assert verdict.sound, verdict
    assert (verdict.entries, verdict.sealed, verdict.outside) == (30, 30, 3)


def test_a_restricted_role_runs_aios_and_cannot_touch_the_log(store: Store) -> None:
    store.superuser('CREATE ROLE "App-1" LOGIN', "CREATE ROLE boss LOGIN SUPERUSER")
    for _ in range(2):
        told = CliRunner().invoke(app, ["audit", "restrict", "App-1", "--database", store.url])
        assert (told.exit_code, "App-1 may do all" in told.output) == (0, True), told.output
    url = store.url.replace("aios@", "App-1@")
    limited = Database(url)
    limited.upgrade()
    registry = Registry(limited)
    with registry.change(actor="ana", action="add", subject="keys") as change:
        change.add_key("k-1", "ana", "d" * 64, "admin")
        change.revoke_key("k-1")
    assert registry.verify_audit() is None
    limited.close()
    for table in ("audit", "audit_checkpoints"):
        for statement in (
            f"UPDATE {table} SET {'seq' if table == 'audit' else 'number'} = 1",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
            f"DROP TABLE {table}",
            f"CREATE TRIGGER mine BEFORE INSERT ON {table} EXECUTE FUNCTION audit_refuse()",
            "SET ROLE aios",
            "SET session_replication_role = replica",
        ):
            with (
                psycopg.connect(url) as connection,
                pytest.raises(errors.InsufficientPrivilege),
            ):
                connection.execute(statement)  # type: ignore[arg-type]
    assert store.verdict().sound
    store.superuser("CREATE ROLE landlord LOGIN", f"ALTER DATABASE {store.name} OWNER TO landlord")
    for role, told in (
        ("nobody-here", "no role"),
        ("boss", "undo every limit"),
        ("landlord", "undo every limit"),
    ):
        with pytest.raises(UsageError, match=told):
            audit.restrict(store.database, role)
        refused = CliRunner().invoke(app, ["audit", "restrict", role, "--database", store.url])
        assert (refused.exit_code, isinstance(refused.exception, UsageError)) == (1, True)


def test_the_owner_who_drops_the_trigger_is_found_out(server_url: str, tmp_path: Path) -> None:
    store = Store(server_url, "attacked", tmp_path)
    store.database.close()
    drop = (
        "DROP TRIGGER audit_no_change ON audit",
        "DROP TRIGGER audit_checkpoints_no_change ON audit_checkpoints",
    )
    store.superuser(*drop, "DELETE FROM audit WHERE seq > 25")
    assert store.verdict().first_bad == 26
    store.superuser("DELETE FROM audit_checkpoints WHERE number = 3")
    verdict = store.verdict()
    assert (verdict.first_bad, verdict.sealed) == (26, 20)
    assert "old copy" in str(verdict.reason)
    store.superuser("UPDATE audit SET actor = 'eve' WHERE seq = 7")
    assert store.verdict().first_bad == 7
    store.superuser("DROP TABLE audit")
    assert "no audit log" in str(store.verdict().reason)
    with pytest.raises(StoreUnavailable):
        verify(store.url.replace("/attacked", "/absent"))
