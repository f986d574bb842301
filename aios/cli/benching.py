"""`aios bench`: run a benchmark of the checkout, or compare two results."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from aios.capacity.comparison import compare as compared
from aios.capacity.comparison import read_result
from aios.cli.terminal import show
from aios.errors import UsageError

CATALOGUE = {
    "goals": "endpoint",
    "peers": "servers",
    "latency": "latency",
    "throughput": "throughput",
    "capacity": "capacity",
    "scaling": "scaling",
    "coldstart": "coldstart",
    "rollout": "shift",
    "flows": "flows",
    "agents": "agents",
    "events": "events",
    "training": "training",
    "drift": "drift",
    "audit": "audit",
    "metering": "metering",
    "soak": "soak",
}
"""What a benchmark is called, and its module in `benchmarks/`. They run in a process of their own
and are no part of the installed package: they need contestants, data and a place for results."""
COMPARE = "compare"
commands = typer.Typer()


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Which one, or `compare`; default: list them.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare results of different machines.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(help="Of `compare`: differences up to this share are none.")
    ] = 0.05,
) -> None:
    """Run a benchmark: `aios bench latency --rounds 3`; what follows its name is its own.

    `aios bench compare A B` tells the ratios of two results with 95 % confidence intervals, and
    ends with 1 if a figure got worse.
    """
    if name == COMPARE:
        _compare(context.args, force=force, tolerance=tolerance)
        return
    if name is not None and name not in CATALOGUE:
        raise UsageError(f"no benchmark {name!r:.40}; there are: {', '.join(CATALOGUE)}, {COMPARE}")
    folder = _folder()
    if name is None:
        for known, module in CATALOGUE.items():
            typer.echo(f"{known:<10} {_question(folder / f'{module}.py')}")
        return
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{CATALOGUE[name]}", *context.args],
        cwd=folder.parent,
        check=False,
    )
    raise typer.Exit(done.returncode)


def _compare(paths: list[str], *, force: bool, tolerance: float) -> None:
    if len(paths) != 2 or any(path.startswith("-") for path in paths):
        raise UsageError("compare takes two results: aios bench compare BEFORE.jsonl AFTER.jsonl")
    before, after = (read_result(Path(path)) for path in paths)
    found = compared(before, after, tolerance=tolerance, force=force)
    show(found, narrow=True)
    if found.worse:
        raise typer.Exit(1)


def _folder() -> Path:
    """Where the benchmarks are.

    Raises:
        UsageError: they are not there.
    """
    found = find_spec("benchmarks")
    for place in found.submodule_search_locations or () if found else ():
        if (Path(place) / "endpoint.py").exists():
            return Path(place)
    raise UsageError(
        "the benchmarks are part of the project's checkout and not of the installed package: clone "
        "the project and run `make bench` there. `aios plan` and `aios bench compare` work anywhere"
    )


def _question(file: Path) -> str:
    told = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return told.partition("\n")[0]
