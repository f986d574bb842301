"""`aios bench`: run benchmarks of the checkout, report what they found, or compare two results."""

import ast
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from aios.capacity.comparison import compare as compared
from aios.capacity.comparison import read_result
from aios.cli.foreground import run_to_its_end
from aios.cli.terminal import show
from aios.errors import UsageError

CATALOGUE = {
    "endpoint": "endpoint",
    "peers": "servers",
    "capacity": "capacity",
    "coldstart": "coldstart",
    "latency": "latency",
    "throughput": "throughput",
    "scaling": "scaling",
    "rollout": "shift",
    "training": "training",
    "agents": "agents",
    "flows": "flows",
    "events": "events",
    "drift": "drift",
    "audit": "audit",
    "metering": "metering",
    "soak": "soak",
}
"""What a benchmark is called, and its module in `benchmarks/`. They run in a process of their own
and are no part of the installed package: they need contestants, data and a place for results."""
ABOUT = {"all": "suite", "report": "report", "goals": "goals"}
"""What is done with all of them, or with their results: the same kind of modules."""
COMPARE = "compare"
HELP = "--help"
"""Behind the name of a benchmark it is the benchmark's own, which knows its options."""
WORSE, TROUBLE = 1, 2
"""How `compare` ends, as `diff` does: a gate must tell a worse figure from a file that is none."""
commands = typer.Typer()


@commands.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Which one; or `all`, `report`, `goals`, `compare`. Default: list them."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Of `compare`: results of different machines too.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(help="Of `compare`: differences up to this share are none.")
    ] = 0.05,
) -> None:
    """Run a benchmark: `aios bench latency --rounds 3`; what follows its name is its own.

    `aios bench all --short` runs a short version of each and writes a report. `aios bench report`
    makes one page of the newest results, `aios bench goals` tells which goals they meet. `aios
    bench NAME --help` has the options of one.

    `aios bench compare A B` tells the ratios of two results with 95 % confidence intervals, and
    ends with 1 if a figure got worse or is missing, with 2 if they cannot be compared.
    """
    if name == HELP or (name == COMPARE and HELP in context.args):
        typer.echo(context.get_help())
        return
    if name == COMPARE:
        raise typer.Exit(_compare(context.args, force=force, tolerance=tolerance))
    known = {**CATALOGUE, **ABOUT}
    if name is not None and name not in known:
        raise UsageError(f"no benchmark {name!r:.40}; there are: {', '.join(known)}, {COMPARE}")
    folder = _folder()
    if name is None:
        for title, module in known.items():
            typer.echo(f"{title:<10} {_question(folder / f'{module}.py')}")
        typer.echo(f"{COMPARE:<10} Which figures of two results differ by more than chance?")
        return
    command = [sys.executable, "-P", "-m", f"benchmarks.{known[name]}", *context.args]
    # What is about results takes paths, which are the user's.
    place = folder.parent if name in CATALOGUE else Path.cwd()
    raise typer.Exit(run_to_its_end(command, folder=place, environment=importing(folder.parent)))


def importing(checkout: Path) -> dict[str, str]:
    """The environment, with the checkout's modules in reach from everywhere."""
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _compare(paths: list[str], *, force: bool, tolerance: float) -> int:
    """How it ends."""
    try:
        if len(paths) != 2 or any(path.startswith("-") for path in paths):
            raise UsageError(
                "compare takes two results: aios bench compare BEFORE.jsonl AFTER.jsonl"
            )
        before, after = (read_result(Path(path)) for path in paths)
        found = compared(before, after, tolerance=tolerance, force=force)
    except UsageError as error:
        typer.echo(f"aios: {error}", err=True)
        return TROUBLE
    show(found, narrow=True)
    return WORSE if found.worse else 0


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


def question_of(name: str) -> str:
    """What a benchmark of the checkout asks; nothing for one that is not in the catalogue."""
    return _question(_folder() / f"{CATALOGUE[name]}.py") if name in CATALOGUE else ""


def _question(file: Path) -> str:
    told = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return told.partition("\n")[0]
