"""Who may import whom: floors inside aios, Ray in its shells, examples only through the door."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY_SHELLS = (
    "on_ray.py",
    "agents_on_ray.py",
    "api_on_ray.py",
    "boot_on_ray.py",
    "drift_on_ray.py",
    "peers_on_ray.py",
    "torch_on_ray.py",
)
RAY_ROOMS = ("aios/training/data.py", "aios/training/search.py")
"""Ray Data and Ray Tune are what these two are about."""


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@dataclass(frozen=True)
class Names:
    """What a file imports, what of that inside a function, and what its text binds."""

    imports: tuple[ast.Import | ast.ImportFrom, ...]
    hidden: tuple[ast.ImportFrom, ...]
    bound: frozenset[str]


@functools.cache
def names(path: Path) -> Names:
    """Each file is parsed once: that is what takes long here."""
    found = list(ast.walk(ast.parse(path.read_text(), str(path))))
    functions = [one for one in found if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return Names(
        tuple(one for one in found if isinstance(one, ast.Import | ast.ImportFrom)),
        tuple(
            node
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.ImportFrom)
        ),
        frozenset(name for one in found for name in _bound(one)),
    )


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function."""
    for node in names(path).imports:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""


def offenders(paths: list[Path], wrong: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in imports(path)
        if name.partition(".")[0] in wrong
    ]


def test_imports_point_down() -> None:
    pytest.importorskip("importlinter", reason="`make lint` checks it too")
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    ran = subprocess.run(
        [*linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 kept, 0 broken" in ran.stdout


def test_ray_is_known_only_to_its_shells() -> None:
    others = [
        path
        for path in sources("aios", "apps", "benchmarks")
        if path.name not in RAY_SHELLS and str(path.relative_to(ROOT)) not in RAY_ROOMS
    ]
    assert offenders(others, {"ray"}) == []
    shells = [path for path in sources("aios") if path.name in RAY_SHELLS]
    assert offenders(shells, {"ray"}), "the check sees nothing"


def test_examples_use_the_door_alone() -> None:
    behind = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("apps")
        for name in imports(path)
        if name.startswith("aios.") or name.partition(".")[0] in ("tests", "benchmarks")
    ]
    assert behind == []


def test_aios_knows_nothing_of_examples_tests_and_benchmarks() -> None:
    found = offenders(sources("aios"), {"apps", "tests", "benchmarks"})
    acts = [
        "aios/cli/running.py: apps.loan_approval.loop",
        "aios/cli/running.py: apps.loan_approval.story",
    ]
    assert found == acts, "`aios demo` tells an example"


def test_own_modules_are_imported_at_the_top() -> None:
    """Inside a function they hide a cycle. `aios demo` is an exception: it may be absent. So is the
    kernel's actor: who takes its handle must not import the kernel."""
    hidden = [
        f"{path.relative_to(ROOT)}: {node.module}"
        for path in sources("aios")
        for node in names(path).hidden
        if (node.module or "").startswith("aios")
    ]
    assert hidden == ["aios/kernel/actor.py: aios.kernel.on_ray"]


def test_names_that_are_imported_are_there() -> None:
    """A module of benchmarks or chaos may be run by nothing in the tests, but by its users."""
    missing = []
    for path in sources("apps", "benchmarks", "tests"):
        for node in names(path).imports:
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.partition(".")[0] in ("aios", "apps", "benchmarks", "tests"):
                there = _names(module)
                missing += [
                    f"{path.relative_to(ROOT)}: {module}.{alias.name}"
                    for alias in node.names
                    if alias.name not in there and alias.name != "*"
                ]
    assert missing == []


def _names(module: str) -> frozenset[str]:
    """What a module of ours has: what its text binds, and the modules below it."""
    folder = ROOT / module.replace(".", "/")
    file = folder.with_suffix(".py")
    if not file.exists():
        file = folder / "__init__.py"
    below = frozenset(path.stem for path in folder.iterdir()) if folder.is_dir() else frozenset()
    return below | names(file).bound if file.exists() else below


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    return [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []
