"""For all tests: Ctrl-C works in processes that they start, also where it is ignored here, and of
two workers one takes all files that share a runtime."""

import signal
from typing import Any

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARING = (
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
core on a slow machine."""


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
