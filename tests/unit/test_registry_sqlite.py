"""The registry over SQLite, which needs no server."""

import shutil
from pathlib import Path

import pytest

from aios.store.database import Database
from tests.conformance_governed import GovernedConformance
from tests.conformance_registry import RegistryConformance


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "aios.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


class OnSqlite:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/aios.db"

    @pytest.fixture
    def migrated_url(self, tmp_path: Path, template: Path) -> str:
        shutil.copy(template, tmp_path / "migrated.db")
        return f"sqlite:///{tmp_path}/migrated.db"


class TestRegistryOnSqlite(OnSqlite, RegistryConformance):
    pass


class TestGovernedOnSqlite(OnSqlite, GovernedConformance):
    pass
