"""Tidies the prediction log while the kernel runs: every hour, and when somebody asks.

The work is done in a process of Ray's, one endpoint at a time; see `monitoring.tidying`. Feedback
that is as old leaves the database too, once it is exported and its answer was looked for.
"""

import logging
import threading
import time
from collections import Counter, deque
from typing import Any, Protocol

from aios.clock import Clock
from aios.config import Settings
from aios.errors import AiosError
from aios.kernel.explaining import ever_deployed
from aios.registry import Observed, Registry

FIRST_S = 600.0
EVERY_S = 3600.0
DAY_S = 86_400.0

logger = logging.getLogger("aios.kernel")


class Log(Protocol):
    """What tidies a log elsewhere."""

    def tidy(self, endpoint: str, keep_days: float | None, pinned: list[Any]) -> dict[str, Any]: ...


class Housekeeping:
    """A thread that tidies. `problem` says what could not be done, and what a person must look
    at; other endpoints are tidied all the same.

    Attributes:
        last: by endpoint, what was done the last time (`monitoring.tidying.Tidied`), `at_s`, and
            `problem` if it failed.
        counts: by endpoint, since the kernel began: `rows_removed`, `rows_resealed`, `failures`.
    """

    def __init__(
        self, settings: Settings, registry: Registry, observed: Observed, log: Log, clock: Clock
    ) -> None:
        self._keep_days = settings.log_keep_days or None
        self._registry = registry
        self._observed = observed
        self._log = log
        self._clock = clock
        self._asked: deque[str] = deque()
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="aios-housekeeping", daemon=True)
        self.last: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, Counter[str]] = {}

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Begin nothing more. What is going on ends with its process; it can be done again."""
        self._ended = True
        self._wake.set()

    @property
    def problem(self) -> str | None:
        """What went wrong the last time, of any endpoint."""
        found = [one["problem"] for one in dict(self.last).values() if one["problem"]]
        return found[0] if found else None

    def ask(self, endpoint: str) -> None:
        """Tidy one endpoint's log as soon as possible."""
        if endpoint not in self._asked:
            self._asked.append(endpoint)
        self._wake.set()

    def _run(self) -> None:
        due_s = time.monotonic() + FIRST_S  # whatever becomes of the clock
        while not self._ended:
            self._wake.wait(max(0.0, due_s - time.monotonic()))
            self._wake.clear()
            while self._asked and not self._ended:
                self.tidy(self._asked.popleft())
            if time.monotonic() >= due_s and not self._ended:
                self.tidy_all()
                due_s = time.monotonic() + EVERY_S

    def tidy_all(self) -> None:
        """Tidy the log of every endpoint that there is or was, and the database's feedback."""
        try:
            endpoints = sorted(ever_deployed(self._registry))
            if self._keep_days is not None:
                before_s = self._clock.now_s() - self._keep_days * DAY_S
                self._observed.forget_feedback(before_s)
        except Exception:
            logger.exception("the log is not tidied; the next try is in %s s", EVERY_S)
            return
        for endpoint in endpoints:
            if not self._ended:
                self.tidy(endpoint)

    def tidy(self, endpoint: str) -> None:
        """Tidy one endpoint's log; what comes of it is in `last`."""
        counts = self.counts.setdefault(endpoint, Counter())
        found: dict[str, Any] = {}
        try:
            found = self._log.tidy(endpoint, self._keep_days, self._pinned(endpoint))
            problem = _problem(endpoint, found)
        except AiosError as error:
            problem = f"the prediction log of {endpoint!r} is not tidied: {error.message}"
        except Exception as error:
            # A thread that ended here would let every log grow, and nobody would know.
            logger.exception("tidying the log of %r failed unexpectedly", endpoint)
            problem = f"the prediction log of {endpoint!r} is not tidied: {error!r:.300}"
        if problem is not None:
            logger.warning("%s", problem)
        counts["failures"] += not found
        for name in ("rows_removed", "rows_resealed"):
            counts[name] += found.get(name, 0)
        known = {**self.last.get(endpoint, {"endpoint": endpoint}), **found}
        self.last[endpoint] = {**known, "at_s": self._clock.now_s(), "problem": problem}

    def _pinned(self, endpoint: str) -> list[Any]:
        """The versions of the log that training runs have read lately: they can be made again as
        long as rows are kept."""
        since_s = self._clock.now_s() - (self._keep_days or float("inf")) * DAY_S
        taken = [
            run.results["snapshot"]["snapshot"]
            for run in self._registry.runs()
            if run.spec.data.kind == "predictions"
            and run.spec.data.location == endpoint
            and "snapshot" in run.results
            and run.created_s >= since_s
        ]
        return [(one.get("version"), one.get("feedback_version")) for one in taken]


def _problem(endpoint: str, found: dict[str, Any]) -> str | None:
    """What a person must look at, although the rest goes on."""
    aside, closed = found.get("set_aside", ()), found.get("rows_closed", 0)
    if aside:
        return (
            f"{len(aside)} files of the prediction log of {endpoint!r} could not be read and were "
            f"set aside, such as {aside[0]}: remove it when nothing can be got out of it any more"
        )
    if closed:
        return (
            f"{closed} rows of the prediction log of {endpoint!r} are encrypted with a key that "
            "the keyring lacks, or were changed; they stay as they are"
        )
    return None
