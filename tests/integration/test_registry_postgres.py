"""The registry over a real PostgreSQL server: the same suite as over SQLite."""

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from aios.clock import ManualClock
from aios.errors import StoreUnavailable
from aios.records.cost import Billed, Owner, Place, Used
from aios.registry import UsageStore
from aios.store.database import Database
from tests.conformance_governed import GovernedConformance
from tests.conformance_registry import RegistryConformance
from tests.postgres_server import running_postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def template(server_url: str) -> str:
    database = Database(create(server_url))
    database.upgrade()
    database.close()
    return str(database.url.database)


@pytest.fixture
def url(server_url: str) -> str:
    return create(server_url)


@pytest.fixture
def migrated_url(server_url: str, template: str) -> str:
    return create(server_url, template)


def create(server_url: str, template: str = "template1") -> str:
    """A new database on the server, as a copy of another one."""
    name = f"registry_{next(_numbers)}"
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return f"{server_url}/{name}"


class TestRegistryOnPostgres(RegistryConformance):
    pass


class TestGovernedOnPostgres(GovernedConformance):
    pass


def test_truncating_the_audit_log_is_refused(url: str) -> None:
    database = Database(url)
    database.upgrade()
    with pytest.raises(Exception, match="never changed"), database.transaction() as connection:
        connection.exec_driver_sql("TRUNCATE audit")
    database.close()


def test_lost_connections_are_a_temporary_error_and_mend(server_url: str, url: str) -> None:
    database = Database(url)
    database.upgrade()
    with pytest.raises(StoreUnavailable), database.transaction() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
    database.upgrade()
    database.close()


def test_hours_are_added_up_once_and_rolled_up(migrated_url: str) -> None:
    database, clock = Database(migrated_url), ManualClock(100 * 86_400.0)
    store = UsageStore(database, clock)
    place, owner = Place(0.0, 3600.0, "default", "EUR"), Owner("endpoint", "loan", "loan", 1)
    for sequence in (1, 2, 2):
        spent = {(place, owner): Used(2.0, 0.0, 10, 0.5)}
        store.save(sequence, spent, {place: Billed(10.0, 20.0, 0.0, 0.5)}, {"at_s": sequence})
    assert store.used(0, 1e12) == [(place, owner, Used(4.0, 0.0, 20, 1.0))]
    assert store.progress() == (2, {"at_s": 2})
    store.roll_up()
    day = place._replace(width_s=86_400.0)
    assert store.billed(0, 1e12) == [(day, Billed(20.0, 40.0, 0.0, 1.0))]
    database.close()


def test_a_server_that_is_away_is_a_temporary_error() -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/") as caught:
        Database("postgresql://ana:secret@127.0.0.1:1/none").upgrade()
    assert "secret" not in str(caught.value)
