"""Makes Ray Serve run what the registry says, and only when that changed."""

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from aios.errors import ClusterUnavailable
from aios.kernel.serve_client import AppStatus

LOOK_S = 1.0
"""How often Serve is asked what runs, and a failed try is repeated; commands do not wait."""

logger = logging.getLogger("aios.kernel")


class Serve(Protocol):
    """What the reconciler needs of Ray Serve; `ServeClient` in production."""

    def put(self, config: dict[str, Any]) -> None: ...

    def statuses(self) -> dict[str, AppStatus]: ...


class Reconciler:
    """A loop in a thread: compare, put, look, wait.

    Args:
        desired: the configuration wanted now; called often, must be cheap.
        serve: where to put it.
    """

    def __init__(self, desired: Callable[[], dict[str, Any]], serve: Serve) -> None:
        self._desired = desired
        self._serve = serve
        self._applied: dict[str, Any] | None = None
        self._statuses: dict[str, AppStatus] = {}
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aios-reconcile", daemon=True)
        self.problem: str | None = None
        self.has_looked = False
        self.listeners: list[Callable[[], None]] = []

    def start(self) -> None:
        self._thread.start()

    def changed(self) -> None:
        """Desired state changed: reconcile now rather than at the next look, and tell the
        `listeners`, which must not block."""
        self._changed.set()
        self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()

    def statuses(self) -> dict[str, AppStatus]:
        """What ran at the last look."""
        return self._statuses

    def once(self) -> bool:
        """Put the desired configuration if it differs from the last one put, then look.

        Returns:
            Whether something was put.

        Raises:
            ClusterUnavailable: Serve does not answer; nothing is remembered as applied.
        """
        self._changed.clear()
        desired = self._desired()
        differs = desired != self._applied
        if differs:
            # Also without a command: a key that has expired is told to nobody else.
            self._tell()
            # A put that fails may have been taken all the same, so even going back to the
            # configuration before it needs another put.
            self._applied = None
            self._serve.put(desired)
            self._applied = desired
        if not self._changed.is_set():
            self._statuses = self._serve.statuses()
            self.has_looked = True
            if any(app["name"] not in self._statuses for app in desired.get("applications", ())):
                # Serve lost what it had, as after a head that began afresh: put it again.
                self._applied = None
        return differs

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.once()
                self.problem = None
            except ClusterUnavailable as error:
                self.problem = str(error)
                logger.warning("reconcile: %s", error)
            except Exception as error:
                # One bad look must not end the loop that everything depends on.
                self.problem = f"{type(error).__name__}: {error}"
                logger.exception("reconcile failed; trying again")
            if not self._stopped.is_set():
                self._changed.wait(LOOK_S)

    def stop(self) -> None:
        """End the loop, if it was started, after what it is doing."""
        self._stopped.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
