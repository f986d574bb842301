"""What this process uses, and how busy its node is: a few system calls, nothing remembered."""

import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from aios.records.cost import Owner, ProcessUsage

CGROUP = Path("/sys/fs/cgroup")
_BUSY = ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc")
"""Counters of psutil that only grow; a guest's time is part of `user`."""


class ProcessMeter:
    """Tells what this process has used since it began: CPU seconds of its own and of the children
    that have ended, and the GPUs it reserves over the time.

    Args:
        owner: for whom it works.
        node: Ray's id of its node.
        gpus: how many GPUs it reserves.
        app: the Serve application, of a challenger.
    """

    def __init__(self, owner: Owner, node: str, gpus: float = 0.0, app: str = "") -> None:
        self._told = {**owner._asdict(), "id": uuid.uuid4().hex, "node": node, "app": app}
        self._gpus = gpus
        self._began_s = time.monotonic()

    def usage(self, changing: Mapping[str, Any]) -> ProcessUsage:
        """As it is now, with fields that change: a version, calls."""
        now = {
            "cpu_s": time.process_time() + os.times().children_user + os.times().children_system,
            "gpu_s": self._gpus * (time.monotonic() - self._began_s),
            "node_cores": cores(),
            "node_busy_s": busy_s(),
        }
        return ProcessUsage(**{**now, **self._told, **changing})


def cores(folder: Path = CGROUP) -> float:
    """The cores that this machine, or its container, may use."""
    every = float(psutil.cpu_count() or 1)
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return every
    return every if quota == "max" else min(every, int(quota) / int(period))


def busy_s(folder: Path = CGROUP) -> float:
    """CPU seconds that all processes of this machine, or its container, have used so far."""
    try:
        lines = (folder / "cpu.stat").read_text().splitlines()
        used = dict(line.split() for line in lines)
        return int(used["usage_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in _BUSY))
