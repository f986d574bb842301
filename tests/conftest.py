"""For all tests: Ctrl-C works in processes that they start, also where it is ignored here; of the
workers one takes all files that share a runtime; unit tests that take long begin first; new stores
are copies of one; and no example of hypothesis has a time limit."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from aios.store.database import Database

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy for a moment is no fault of what is tested.
settings.register_profile("aios", settings(deadline=None))
settings.load_profile("aios")

SHARING = (
    "test_predictive_maintenance.py",
    "test_http_surface.py",
    "test_measure.py",
    "test_retrain.py",
    "test_retrain_story.py",
    "test_rollouts.py",
    "test_watching.py",
    "test_agents.py",
    "test_events.py",
    "test_flows.py",
    "test_readme.py",
)
"""Of `tests/integration`, those with the fixture `rt`, in the order in which they run: those that
leave hosts, readers and workers behind come last: two idle flow workers alone cost a fifth of a
core on a slow machine. The first has a runtime of its own; its broker is one of which there can
be one on a machine, and `test_events` would wait for it."""

LONG = ("test_users_flows.py", "test_multivariate.py", "test_agents.py", "test_kernel_flows.py")
"""Of `tests/unit`, those that begin first: one that takes long is not left alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name == "unit" and item.path.name not in LONG)


def shares(path: str) -> bool:
    """Whether a test file shares the runtime."""
    folder, _, name = path.rpartition("/")
    return folder.endswith("integration") and name in SHARING


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go to workers whole. (`--dist loadgroup` does nothing with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "runtime" if shares(path) else path

    return Files(config, log)


@pytest.fixture(scope="session", autouse=True)
def new_stores_are_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """To make the tables of a store takes 0.15 s of CPU: that is done once here, but where it is
    what is tested. A store that is there is brought up to date as ever."""
    made = tmp_path_factory.mktemp("store") / "aios.db"
    upgrade = Database.upgrade
    first = Database(f"sqlite:///{made}")
    upgrade(first)
    first.close()

    def copied(self: Database) -> None:
        there = self.kind == "postgresql" or Path(str(self.place)).exists()
        running = os.environ.get("PYTEST_CURRENT_TEST", "")
        if there or "test_store" in running or "upgrading" in running:
            return upgrade(self)
        shutil.copyfile(made, str(self.place))
        Path(str(self.place)).chmod(0o600)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "upgrade", copied)
        yield
