"""What this process uses, and how busy its node is: a few system calls, nothing remembered."""

import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from aios.records.cost import Owner, ProcessUsage

CGROUP = Path("/sys/fs/cgroup")
_BUSY = ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc")
"""Counters of psutil that only grow; a guest's time is part of `user`."""


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return time.process_time() + os.times().children_user + os.times().children_system


_for_others_s = 0.0


def worked_for_others() -> None:
    """What this process has used so far is nothing that whoever has it next should pay for: Ray
    gives a process that did a task to the next task, or makes an actor of it."""
    global _for_others_s
    _for_others_s = cpu_s()


class ProcessMeter:
    """Tells what this process has used since it began, or since it last `worked_for_others`: CPU
    seconds of its own and of the children that have ended, and the GPUs it reserves over the time.

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
        self._began_cpu_s = _for_others_s

    def usage(self, changing: Mapping[str, Any]) -> ProcessUsage:
        """As it is now, with fields that change: a version, calls."""
        now = {
            "cpu_s": cpu_s() - self._began_cpu_s,
            "gpu_s": self._gpus * (time.monotonic() - self._began_s),
            "node_cores": cores(),
            "node_busy_s": busy_s(),
        }
        return ProcessUsage(**{**now, **self._told, **changing})


class InTurns:
    """What a process uses that works for several, one after the other: only while it does, since
    Ray may use the process for something else before, between and after.

    Args:
        cpu_s: CPU seconds of this process so far.
        now_s: monotonic seconds.
    """

    def __init__(
        self,
        cpu_s: Callable[[], float] = cpu_s,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clocks = cpu_s, now_s
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._cpu_s = self._gpu_s = 0.0
        self._now: tuple[str, float, float, float] | None = None

    def begin(self, name: str, gpus: float = 0.0) -> None:
        """Work for `name:version` from now on, with so many GPUs."""
        with self._lock:
            cpu_s, now_s = self._clocks
            self._now = name, gpus, cpu_s(), now_s()

    def end(self) -> None:
        """Work for nobody."""
        with self._lock:
            self._cpu_s, self._gpu_s = self._used()
            self._now = None

    def told(self) -> dict[str, Any]:
        """The fields of `ProcessUsage` that change."""
        with self._lock:
            if self._now is not None:
                # Each time anew, so that what long work uses is for the same name all along.
                self._calls[self._now[0]] += 1
            cpu_s, gpu_s = self._used()
            return {"calls": dict(self._calls), "cpu_s": cpu_s, "gpu_s": gpu_s}

    def _used(self) -> tuple[float, float]:
        if self._now is None:
            return self._cpu_s, self._gpu_s
        _, gpus, begun_cpu_s, begun_s = self._now
        cpu_s, now_s = self._clocks
        return self._cpu_s + cpu_s() - begun_cpu_s, self._gpu_s + gpus * (now_s() - begun_s)


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
