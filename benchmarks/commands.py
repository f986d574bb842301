"""How benchmarks begin and end as commands, and other programs that they run."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aios.errors import AiosError, UsageError
from benchmarks.results import ResultFile

CACHE = Path("~/.cache/aios/benchmarks").expanduser()
"""Where data and the environments of peers are kept from run to run."""


def parser_of(name: str, told: str) -> argparse.ArgumentParser:
    """Of the command `aios bench NAME`, which says all of its module's docstring."""
    return argparse.ArgumentParser(
        prog=f"aios bench {name}",
        description=told,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def arguments(parser: argparse.ArgumentParser, short: dict[str, Any]) -> argparse.Namespace:
    """What was typed. With `--short`, what was not typed is as `short` says."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in short.items())
    parser.add_argument("--short", action="store_true", help=f"half a minute: {told}")
    if parser.parse_args().short:
        parser.set_defaults(**short)
    return parser.parse_args()


def count(text: str) -> int:
    """A whole number from 1 on, as an argument."""
    found = int(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return found


def positive(text: str) -> float:
    """A number above 0, as an argument."""
    found = float(text)
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: above 0")
    return found


def begin(main: Callable[[], "int | None"]) -> None:
    """Run a benchmark as a command. What is wrong is one line; SIGTERM ends it as Ctrl-C does, by
    leaving all context managers; and what was broken off is no result."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
    except BaseException as error:
        for file in ResultFile.made:
            file.give_up()
        if isinstance(error, AiosError):
            sys.exit(f"aios: {error}")
        if isinstance(error, KeyboardInterrupt):
            print("aios: interrupted", file=sys.stderr)
            sys.exit(130)
        raise
    sys.exit(code or 0)


def run(command: Sequence[str], what: str) -> str:
    """What a command printed.

    Raises:
        UsageError: it failed; begins with `what` and ends with its last words.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UsageError(f"{what}: {why[:300]}")
    return done.stdout


def environment(folder: Path, name: str, packages: Sequence[str]) -> str:
    """The interpreter of an environment of its own for a peer, made if it is not there.

    Raises:
        UsageError: it cannot be made; says why.
    """
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        run([sys.executable, "-m", "venv", str(folder)], "no environment can be made")
        pip = [str(python), "-m", "pip", "install", "--quiet", *packages]
        run(pip, f"{name} cannot be installed")
        (folder / "installed").touch()
    return str(python)
