"""The README is true: its code runs, its map is the house, its commands and files exist."""

import re
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from aios.cli import app
from aios.config import PREFIX, Settings
from tests.readme_blocks import README, blocks, needs_runtime

ROOT = README.parent
TEXT = README.read_text()


def test_code_without_a_runtime_runs() -> None:
    pure = [block for block in blocks("python") if not needs_runtime(block)]
    assert pure
    for block in pure:
        exec(compile(block, "README.md", "exec"), {})


def test_every_block_names_its_language_so_that_none_escapes_the_tests() -> None:
    opened = re.findall(r"^```(\w*)$", TEXT, re.MULTILINE)[::2]
    assert opened.count("") == 1, "the picture"
    assert set(opened) == {"", "python", "bash"}


def test_the_example_is_short() -> None:
    example = next(block for block in blocks("python") if "aios.local()" in block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 16


def test_the_map_names_every_room_from_the_top_floor_down() -> None:
    named = re.findall(r"^\| `aios/(\w+)(?:\.py)?` \|", TEXT, re.MULTILINE)
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    floors = [set(floor.split(" | ")) for floor in contract["contracts"][0]["layers"]]
    assert sorted(named) == sorted(room for floor in floors for room in floor)
    height = [next(i for i, floor in enumerate(floors) if room in floor) for room in named]
    assert height == sorted(height)


def test_files_that_it_names_exist() -> None:
    named = set(re.findall(r"`((?:aios|apps|benchmarks|tests)/[\w/.]*)`", TEXT)) | {"cluster.yaml"}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_commands_that_it_names_exist() -> None:
    shell = "\n".join(blocks("bash")) + " ".join(re.findall(r"`((?:aios|make) [^`]+)`", TEXT))
    targets = set(re.findall(r"\bmake (\w+)", shell))
    assert targets >= {"demo", "test"}
    assert targets <= set(
        re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    commands = set(re.findall(r"\baios (\w+)", shell))
    assert commands >= {"up", "down", "status", "ps", "audit"}
    for command in commands:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_variables_that_it_and_the_commands_name_are_settings() -> None:
    """An unknown one is refused: `make chaos` once set some, and no runtime began."""
    text = TEXT + (ROOT / "Makefile").read_text() + (ROOT / ".ci" / "run").read_text()
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+", text)) <= known


def test_the_two_commands_come_first() -> None:
    assert TEXT.index("make demo") < TEXT.index("## An example")
    assert Path(ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
