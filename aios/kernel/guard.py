"""The small process that stays when a runtime's owner or Ray's head is gone.

With a parent it ends a private runtime and removes its home once the parent vanishes, however
that ended (SIGKILL, Ctrl-C, a notebook's kernel restart). With `restart` it brings the head of
`aios up` back when its processes die. It ends when the runtime's note is gone, that is, after
a proper stop. Start it with `spawn_guard`, before the head, so that no moment is uncovered.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil

from aios.errors import AiosError
from aios.kernel.head import head_is_alive, read_head, restart_head, stop_head
from aios.kernel.note import NOTE
from aios.kernel.processes import HOME_VARIABLE, ID_VARIABLE, is_alive, spawn_detached

PROGRAM = "from aios.kernel.guard import main; main()"
"""Not `-m`: the package imports this module itself, and it would exist twice."""
LOOK_S = 0.5
NOTE_S = 120.0
"""How long a guard waits for the note of a head that its owner is about to start."""
RESTARTS = 3
"""Failed restarts in a row after which a person must look."""


def spawn_guard(home: Path, *, parent_pid: int | None = None, restart: bool = False) -> int:
    """Start a guard for the runtime at `home`, detached from the caller; returns its pid.

    Args:
        parent_pid: owner of a private runtime; the runtime and its home go when it vanishes.
            None: the runtime outlives everybody.
        restart: bring the head back when it dies.
    """
    home = Path(home).absolute()
    command = [sys.executable, "-c", PROGRAM, "--home", str(home)]
    if parent_pid is not None:
        created_s = psutil.Process(parent_pid).create_time()
        command += ["--parent", str(parent_pid), "--parent-created", repr(created_s)]
    if restart:
        command.append("--restart")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in (ID_VARIABLE, HOME_VARIABLE)}
    return spawn_detached(
        command, environment=environment, folder=Path.cwd(), log=home / "guard.log"
    )


def watch(home: Path, parent: psutil.Process | None, restart: bool) -> None:
    """Look twice a second until the runtime is stopped or its owner is gone.

    Args:
        parent: the owner; a process that was already gone at the start counts as gone.
    """
    begun_s = time.monotonic()
    seen = False
    failures = 0
    while True:
        if parent is not None and not is_alive(parent):
            _clear(home)
            return
        noted = (home / NOTE).exists()
        gone = seen or not home.exists() or time.monotonic() - begun_s > NOTE_S
        if not noted and gone:
            return
        seen = seen or noted
        if restart and noted and failures < RESTARTS:
            failures = failures + 1 if not _bring_back(home) else 0
        time.sleep(LOOK_S)


def _clear(home: Path) -> None:
    head = read_head(home)
    if head is not None:
        stop_head(head, remove_home=True)
    shutil.rmtree(home, ignore_errors=True)


def _bring_back(home: Path) -> bool:
    """False if the head is dead and stays so."""
    head = read_head(home)
    if head is None or not head.pids or head_is_alive(head):
        return True
    begun_s = time.monotonic()
    try:
        restart_head(head)
    except AiosError as error:
        print(f"{time.ctime()} the head did not come back: {error}", flush=True)
        return False
    took_s = time.monotonic() - begun_s
    print(f"{time.ctime()} the head died and is back after {took_s:.1f} s", flush=True)
    return True


def _parent(pid: int, created_s: float) -> psutil.Process:
    """The owner. A pid that now belongs to a younger process is an owner that is gone."""
    process = psutil.Process(pid)
    if abs(process.create_time() - created_s) > 1:
        raise psutil.NoSuchProcess(pid)
    return process


def main() -> None:
    """Read the command line and watch."""
    parser = argparse.ArgumentParser(prog="aios-guard", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--parent-created", type=float, default=0.0)
    parser.add_argument("--restart", action="store_true")
    arguments = parser.parse_args()
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    parent = None
    if arguments.parent is not None:
        try:
            parent = _parent(arguments.parent, arguments.parent_created)
        except psutil.NoSuchProcess:
            _clear(arguments.home)
            return
    os.chdir("/")
    watch(arguments.home.absolute(), parent, arguments.restart)
