"""Seals the audit log while the kernel runs, and proves it on request."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aios.clock import Clock
from aios.config import Settings
from aios.errors import AiosError
from aios.security.signing import signing_key
from aios.store.checkpoints import Checkpointer
from aios.store.database import Database
from aios.store.outside import Outside
from aios.store.verification import verify

TICK_S = 1.0
KEY = "ed25519.key"
CHECKPOINTS = "checkpoints.jsonl"

logger = logging.getLogger("aios.kernel")


def audit_folder(home: Path) -> Path:
    """Where a runtime keeps the signing key, its public half and the checkpoints outside."""
    return home / "audit"


class Sealing:
    """A thread that makes checkpoints when they are due.

    `problem` says why none can be made: an old copy of the database was put back, a tail was cut
    off, or a disk is full. Commands go on; `rt.status()` shows it.
    """

    def __init__(self, settings: Settings, database: Database, clock: Clock) -> None:
        folder = audit_folder(settings.home)
        self._settings = settings
        self._checkpointer = Checkpointer(
            database, signing_key(folder / KEY), Outside(folder / CHECKPOINTS), clock
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aios-sealing", daemon=True)
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Seal what is new, and end."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            self._try(self._checkpointer.seal)

    def verify(self) -> dict[str, Any]:
        """The verdict over the whole log, as it is now: sealed first, so that all is under a
        checkpoint."""
        self._try(self._checkpointer.seal)
        folder = audit_folder(self._settings.home)
        verdict = verify(self._settings.store_url, folder / CHECKPOINTS, folder / f"{KEY}.pub")
        return verdict.model_dump(mode="json")

    def _run(self) -> None:
        while not self._ended.wait(TICK_S):
            self._try(self._checkpointer.tick)

    def _try(self, seal: Callable[[], int]) -> None:
        try:
            seal()
        except AiosError as error:
            if self.problem != error.message:
                logger.error("the audit log is not sealed: %s", error.message)
            self.problem = error.message
        except Exception as error:
            # A thread that ended here would leave the log unsealed, and nobody would know.
            logger.exception("sealing the audit log failed unexpectedly")
            self.problem = f"sealing failed: {type(error).__name__}: {error!s:.300}"
        else:
            self.problem = None
