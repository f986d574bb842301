"""A program that is run for the user: it ends by itself, or tidily when the user has enough."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

TIDY_S = 60.0
"""What a program gets, after Ctrl-C, to end what it started; then it is killed."""
LOOK_S = 0.25


class OutOfTime(Exception):
    """It was still running when its time was up, and was ended."""


def run_to_its_end(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    output: "IO[bytes] | None" = None,
    limit_s: float | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Run a program in a process group of its own, and return its exit code.

    A Ctrl-C reaches this process alone, is passed on once to all of the group, and waited for:
    whoever is asked to end twice does not clean up.

    Args:
        output: takes its standard output and error; by default they are ours.
        limit_s: after that it is ended as by Ctrl-C.
        meanwhile: called a few times a second.

    Raises:
        OutOfTime: it took longer than `limit_s`.
        KeyboardInterrupt: the user had enough; the program has ended.
    """
    # A shell without job control starts background programs with Ctrl-C ignored, which a child
    # would inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            process_group=0,
        )
        try:
            return _wait(process, limit_s, meanwhile)
        finally:
            if process.poll() is None:
                _stop(process)
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(
    process: "subprocess.Popen[bytes]", limit_s: float | None, meanwhile: Callable[[], None]
) -> int:
    begun_s = time.monotonic()
    while True:
        try:
            return process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            meanwhile()
        if limit_s is not None and time.monotonic() - begun_s > limit_s:
            raise OutOfTime


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C does; then, or when the user asks once more, as nobody can refuse."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(TIDY_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
