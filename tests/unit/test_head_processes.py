"""A runtime's processes are found by their mark, and exactly those are ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aios.errors import TemporaryError
from aios.kernel.processes import (
    ID_VARIABLE,
    end_all,
    is_alive,
    processes_of,
    runtime_of,
    spawn_detached,
)

WAIT = "print('ready', flush=True); import sys; sys.stdin.read()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAIT
WITH_CHILD = (
    "import subprocess, sys;"
    f"child = subprocess.Popen([sys.executable, '-S', '-c', {WAIT!r}], env={{}},"
    "stdin=sys.stdin, stdout=subprocess.PIPE); child.stdout.readline(); " + WAIT
)


def marked(runtime_id: str, code: str = WAIT) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, ID_VARIABLE: runtime_id},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_only_the_marked_runtime_is_found_and_ended() -> None:
    mine, other = marked("unit0001"), marked("unit0002")
    try:
        assert runtime_of(psutil.Process(mine.pid))[0] == "unit0001"
        assert [process.pid for process in processes_of("unit0001")] == [mine.pid]
        end_all(lambda: processes_of("unit0001"))
        assert mine.wait(timeout=1) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        end(mine)
        end(other)


def test_children_without_the_mark_belong_too() -> None:
    parent = marked("unit0003", WITH_CHILD)
    try:
        found = processes_of("unit0003")
        assert len(found) == 2
        end_all(lambda: processes_of("unit0003"))
        assert not any(is_alive(process) for process in found)
    finally:
        end(parent)


def test_ending_nothing_is_no_error() -> None:
    end_all(lambda: processes_of("nobody01"))


def test_what_ignores_sigterm_is_killed() -> None:
    stubborn = marked("unit0004", STUBBORN)
    try:
        end_all(lambda: processes_of("unit0004"), terminate_s=0.1)
        assert stubborn.wait(timeout=1) == -signal.SIGKILL
    finally:
        end(stubborn)


def test_what_does_not_end_in_time_is_named() -> None:
    stubborn = marked("unit0005", STUBBORN)
    try:
        with pytest.raises(TemporaryError, match=f"{stubborn.pid} "):
            end_all(lambda: processes_of("unit0005"), timeout_s=0.1)
    finally:
        end(stubborn)


def test_the_caller_is_never_among_them() -> None:
    code = "from aios.kernel.processes import processes_of; print(processes_of('unit0006') == [])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, ID_VARIABLE: "unit0006"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "True\n"


def test_a_detached_process_is_nobodys_child_and_its_arguments_stay_arguments(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    pid = spawn_detached(
        [
            sys.executable,
            "-S",
            "-c",
            "import sys, os; print(sys.argv[1], sys.stdin.read(), os.getsid(0))",
            "$HOME; x",
        ],
        given=b"$PATH",
        environment=os.environ,
        folder=tmp_path,
        log=log,
    )
    deadline_s = time.monotonic() + 5
    while not log.read_text().endswith("\n") and time.monotonic() < deadline_s:
        os.sched_yield()
    text, session = log.read_text().rsplit(maxsplit=1)
    assert text == "$HOME; x $PATH"
    assert int(session) != os.getsid(0)
    assert pid not in [child.pid for child in psutil.Process().children()]
