"""How far a replica's start has come: one line in its log, from which a slow start is explained."""

import time
from collections.abc import Callable

import orjson

TOLD = "aios start "
"""How the line begins; JSON follows."""


class Start:
    """When the process of a replica reached each step of its start.

    Args:
        imported_s: when the imports were over.
        now_s: seconds of the wall clock, which other processes of the machine share.
    """

    def __init__(self, imported_s: float, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._at_s = {"imported": imported_s}

    def reached(self, step: str) -> None:
        """This far; what a later version's load passes again is not told."""
        self._at_s.setdefault(step, self._now_s())

    def line(self, name: str, pid: int) -> str:
        """All steps, in seconds of the wall clock, for the log."""
        told = {"name": name, "pid": pid, "at_s": self._at_s}
        return TOLD + orjson.dumps(told).decode()
