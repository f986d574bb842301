"""Notices an agent that holds up all others in its process, and stops it.

Everything in a host shares one event loop: `while True: pass` in one agent is the end of all. A
thread looks whether the loop still turns. If not, it raises `LoopBlocked` in the code that
holds it up; code that waits inside C, such as `time.sleep`, does not notice that, and then the
process is given up.
"""

import asyncio
import ctypes
import logging
import threading
from collections.abc import Callable

LIMIT_S = 5.0
"""How long an agent may go without an `await`."""
GIVE_UP_S = 3.0
"""How long after that the process is given up. Together less than what makes the kernel take it for
frozen (`on_ray.FROZEN_S`), which does not know who held it up."""

logger = logging.getLogger("aios.agents")


class LoopBlocked(Exception):
    """Raised in an agent that computed, or waited without `await`, for longer than others can
    wait. It is raised as a class, so it has no message of its own."""

    def __str__(self) -> str:
        return (
            f"the agent held up its process for {LIMIT_S:.0f} s without an await; put what takes "
            "long into a tool, which runs in a thread of its own"
        )


class Watchdog:
    """Watches the running loop of the thread that makes it.

    Args:
        give_up: called from the watching thread with the name of the task that holds the loop
            up and does not end; "" where no task does.
    """

    def __init__(
        self,
        give_up: Callable[[str], None],
        limit_s: float = LIMIT_S,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._victim = threading.get_ident()
        self._give_up = give_up
        self._limit_s = limit_s
        self._give_up_s = give_up_s
        self._turned = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aios-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._limit_s / 10):
            if not self._turns(self._limit_s) and not self._closed.is_set():
                self._interrupt()

    def _turns(self, within_s: float) -> bool:
        self._turned.clear()
        try:
            self._loop.call_soon_threadsafe(self._turned.set)
        except RuntimeError:  # the loop was closed
            self._closed.set()
            return True
        return self._turned.wait(within_s)

    def _interrupt(self) -> None:
        task = asyncio.current_task(self._loop)
        name = "" if task is None else task.get_name()
        logger.error("agent %s holds up its process; it is interrupted", name)
        if task is not None:
            victim, raised = ctypes.c_ulong(self._victim), ctypes.py_object(LoopBlocked)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(victim, raised)
        if not self._turns(self._give_up_s):
            self._give_up(name)
            self._closed.set()
