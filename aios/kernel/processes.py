"""Which operating system processes belong to a runtime, and how to end exactly those.

Ray's own `ray stop` ends every Ray on the machine and forgets HAProxy. So each runtime puts
its id in the environment of the first process that it starts; all others inherit it, and it
is found again long after pids and parents have changed.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from aios.errors import TemporaryError

ID_VARIABLE = "_AIOS_RUNTIME_ID"
"""Marks every process of a runtime. No `AIOS_` prefix: those are settings."""
HOME_VARIABLE = "_AIOS_RUNTIME_HOME"
TERMINATE_S = 2.0
"""What a process gets between SIGTERM and SIGKILL. Ray's own stop takes less than 1 s."""


def runtime_of(process: psutil.Process) -> tuple[str | None, str | None]:
    """Id and home of the runtime that started `process`; two `None` if none did."""
    environment = _environment(process) or {}
    return environment.get(ID_VARIABLE), environment.get(HOME_VARIABLE)


def processes_of(runtime_id: str, temp_dir: str | None = None) -> list[psutil.Process]:
    """Every living process of a runtime, without the calling one and without zombies.

    Where the environment cannot be read (macOS hides that of some programs) a command line
    that names `temp_dir` counts. Children belong to it too, unless another runtime owns them.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if not belongs_to(process, runtime_id, temp_dir):
            continue
        found[process.pid] = process
        for child in _children(process):
            if runtime_of(child)[0] in (runtime_id, None):
                found[child.pid] = child
    found.pop(os.getpid(), None)
    return [process for process in found.values() if is_alive(process)]


def belongs_to(process: psutil.Process, runtime_id: str, temp_dir: str | None) -> bool:
    """Whether the process carries the runtime's mark, or seems to where that cannot be read."""
    environment = _environment(process)
    if environment:
        return environment.get(ID_VARIABLE) == runtime_id
    return temp_dir is not None and any(temp_dir in part for part in command_of(process))


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie that nobody has collected does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def name_of(process: psutil.Process) -> str:
    """The program's name, as a person knows it."""
    try:
        return str(process.name())
    except psutil.Error:
        return "unknown"


def command_of(process: psutil.Process) -> list[str]:
    """The command line; empty if it cannot be read."""
    try:
        return [str(part) for part in process.cmdline()]
    except psutil.Error:
        return []


def spawn_detached(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    given: bytes = b"",
) -> int:
    """Start a process that is nobody's child and has a session of its own; returns its pid.

    It survives the caller's end, gets no Ctrl-C meant for the caller, and leaves no zombie.
    The shell only forks: the command is passed as arguments, never as text. `given` is what it
    reads from its standard input, less than a pipe holds: 64 KiB.
    """
    with log.open("ab") as output:
        shell = subprocess.run(
            # A shell gives what it runs in the background no input, but that of another number.
            ["/bin/sh", "-c", 'exec 3<&0; "$@" <&3 3<&- >&2 & echo $!', "sh", *command],
            env=dict(environment),
            cwd=folder,
            input=given,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            check=True,
        )
    return int(shell.stdout)


def end_all(
    find: Callable[[], list[psutil.Process]],
    timeout_s: float = 10.0,
    terminate_s: float = TERMINATE_S,
) -> None:
    """SIGTERM, then SIGKILL, what `find` returns, again and again until it returns nothing.

    Asking again matters: a raylet that is going down may still start workers. The wait is a
    look at the process table, which leaves the caller's children for the caller to collect.

    Args:
        find: the living processes that shall end.
        timeout_s: bound of the whole.
        terminate_s: from when on SIGKILL is sent.

    Raises:
        TemporaryError: something is still there after `timeout_s`; the message names it.
    """
    begun_s = time.monotonic()
    asked: set[int] = set()
    while alive := find():
        elapsed_s = time.monotonic() - begun_s
        if elapsed_s > timeout_s:
            names = ", ".join(f"{process.pid} ({name_of(process)})" for process in alive)
            raise TemporaryError(
                f"processes did not end within {timeout_s:.0f} s: {names}. "
                "They may wait for a disk or belong to another user; end them by hand."
            )
        for process in alive:
            _signal(process, kill=elapsed_s > terminate_s, asked=asked)
        time.sleep(0.05)


def _signal(process: psutil.Process, *, kill: bool, asked: set[int]) -> None:
    try:
        if kill:
            process.kill()
        elif process.pid not in asked:
            asked.add(process.pid)
            process.terminate()
    except psutil.NoSuchProcess:
        asked.discard(process.pid)
    except psutil.AccessDenied as error:
        raise TemporaryError(
            f"may not end process {process.pid} ({name_of(process)}), which belongs to this "
            "runtime: it runs as another user. Stop the runtime as that user."
        ) from error


def _environment(process: psutil.Process) -> dict[str, str] | None:
    try:
        environment: dict[str, str] = process.environ()
    except (psutil.Error, OSError):
        return None
    return environment


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        children: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return children
