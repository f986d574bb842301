"""Other programs that benchmarks run, and how a benchmark itself speaks and ends."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aios.errors import UsageError

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


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Make SIGTERM end the benchmark as Ctrl-C does: by leaving all context managers."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """What goes on, on standard error: standard output is for what was found."""
    print(text, file=sys.stderr, flush=True)
