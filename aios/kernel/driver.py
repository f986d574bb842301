"""The process in whose name the kernel runs: it starts that and stays, see `boot_on_ray.stay`."""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from aios.errors import ClusterUnavailable
from aios.kernel.processes import is_alive, spawn_detached

UP = "the kernel is up"
START_S = 150.0
"""Bound of the kernel's start: Ray's and DBOS's imports on busy cores. The process itself
gives up after 120 s with a better reason."""
LOOK_S = 0.05
SHOWN_LINES = 6


def start_driver(request: dict[str, Any], environment: Mapping[str, str], log: Path) -> None:
    """Start `python -m aios.kernel`, and return when the kernel runs.

    Args:
        request: what it reads.
        environment: of the process; with a runtime's id it ends with that runtime.
        log: what it says; what was there before is removed.

    Raises:
        ClusterUnavailable: the kernel did not start; the message ends with what was said last.
    """
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    pid = spawn_detached(
        [sys.executable, "-m", "aios.kernel"],
        environment=environment,
        folder=Path.cwd(),
        log=log,
        given=json.dumps(request).encode(),
    )
    give_up_s = time.monotonic() + START_S
    where = f"on the Ray at {request['ray_address']}"
    while True:
        runs = _runs(pid)
        said = log.read_text(errors="replace").splitlines()
        if UP in said:
            return
        if not runs:
            last = "\n".join(line for line in said[-SHOWN_LINES:] if line)
            raise ClusterUnavailable(f"the kernel did not start {where}:\n{last}")
        if time.monotonic() > give_up_s:
            os.kill(pid, signal.SIGKILL)
            raise ClusterUnavailable(
                f"the kernel did not start within {START_S:.0f} s {where}; "
                "is that Ray running, and is the machine busy?"
            )
        time.sleep(LOOK_S)


def _runs(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
