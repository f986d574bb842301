"""How benchmarks begin, speak and end as commands, and other programs that they run."""

import argparse
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aios.errors import AiosError, UsageError
from benchmarks.results import ResultFile

CACHE = Path("~/.cache/aios/benchmarks").expanduser()
"""Where data and the environments of peers are kept from run to run."""
INSTALLED = "installed"
"""The note in an environment of what was installed into it."""
TOLD_EVERY_S = 5.0
MOST_SHOWN = 300
ERROR = re.compile(r"\w(Error|Exception)\b|^error:", re.IGNORECASE)
"""A line that tells one, in Python's words; programs say more when they end after it."""
QUIET = ("WARNING", "[notice]")
"""What pip says beside the point."""


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


def is_made(folder: Path, packages: Sequence[str]) -> bool:
    """Whether an environment is there with these packages."""
    note = folder / INSTALLED
    return note.exists() and note.read_text() == "\n".join(packages)


def environment(
    folder: Path, name: str, packages: Sequence[str], python: str = sys.executable
) -> str:
    """The interpreter of an environment of its own for a peer, made if it is not there with these
    packages. What is installed is told on standard error.

    Raises:
        UsageError: it cannot be made; says why.
    """
    found = str(folder / "bin" / "python")
    if not is_made(folder, packages):
        say(f"{name}: an environment of its own in {folder}, once: {', '.join(packages)}")
        run([python, "-m", "venv", str(folder)], "no environment can be made")
        _install([found, "-m", "pip", "install", "--progress-bar", "off", *packages], name)
        (folder / INSTALLED).write_text("\n".join(packages))
    return found


def _install(pip: Sequence[str], name: str) -> None:
    begun_s = told_s = time.monotonic()
    said = ""
    process = subprocess.Popen(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if not line.startswith(QUIET):
                said = line.strip()[:MOST_SHOWN] or said
            if time.monotonic() - told_s > TOLD_EVERY_S:
                told_s = time.monotonic()
                say(f"{name}: {told_s - begun_s:.0f} s: {said}")
    if process.returncode:
        raise UsageError(f"{name} cannot be installed: {said}")
    say(f"{name}: installed in {time.monotonic() - begun_s:.0f} s")


def last_words(log: Path) -> str:
    """The last error that a program told, or the last line that it wrote."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if any(sign.isalnum() for sign in line)]
    errors = [line for line in said if ERROR.search(line)]
    return (errors or said or ["it says nothing"])[-1][-MOST_SHOWN:]


def say(text: str) -> None:
    """What goes on, on standard error: standard output is for what was found."""
    print(text, file=sys.stderr, flush=True)
