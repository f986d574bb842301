"""The registry over a real PostgreSQL server: the same suite as over SQLite."""

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from aios.errors import StoreUnavailable
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


def test_a_server_that_is_away_is_a_temporary_error() -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/") as caught:
        Database("postgresql://ana:secret@127.0.0.1:1/none").upgrade()
    assert "secret" not in str(caught.value)
