"""How the house looks: every room says what it is for, and no file grows past reading."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 500
WEAK_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}

ROOMS = sorted(path.parent for path in (ROOT / "aios").glob("*/__init__.py"))
FILES = [
    path for folder in ("aios", "apps", "benchmarks") for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_says_what_it_is_for_and_holds_nothing_else(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text())
    told = ast.get_docstring(tree)
    assert told is not None
    assert len(told) > 100, "what it is for, who calls it, invariants, what it must not know"
    more = [
        node
        for node in tree.body[1:]
        if not isinstance(node, ast.ImportFrom)
        and not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    ]
    assert more == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_exports_are_sorted_and_true(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    exported = next(
        (ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)), []
    )
    assert exported == sorted(imported)


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in FILES
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_file_is_too_long_to_read() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in FILES}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_names_say_something() -> None:
    weak = [str(path.relative_to(ROOT)) for path in FILES if path.stem in WEAK_NAMES]
    assert weak == []
