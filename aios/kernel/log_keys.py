"""The keys of the prediction log, in the one process that keeps them; replicas are given them."""

import threading
from collections.abc import Callable

from aios.clock import Clock
from aios.config import Settings
from aios.errors import IllegalTransition, UsageError
from aios.security.keyring import Keyring, load_keyring, save_keyring

FOLDER, FILE = "keys", "log.json"
TAKEN_S = 60.0
"""Long after this every replica encrypts with a key that was made: it is told within a second."""


class LogKeys:
    """The keyring of a runtime. Threads may share it.

    Raises:
        UsageError: others may read its file, or it holds no keys.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._path = settings.home / FOLDER / FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._ring = load_keyring(self._path, encrypts=settings.log_encryption)
        self._rotated_s = float("-inf")

    def current(self) -> Keyring:
        """The keyring as it is now."""
        return self._ring

    def rotate(self) -> str:
        """Let new rows be encrypted with a new key; its id.

        Raises:
            UsageError: the log is not encrypted.
        """
        if not self._ring.encrypts:
            raise UsageError(
                "the prediction log is not encrypted: set log_encryption = true and start the "
                "runtime again"
            )
        self._replace(lambda ring: ring.rotated())
        self._rotated_s = self._clock.now_s()
        return self._ring.ids[-1]

    def retire(self, name: str) -> None:
        """Forget a key. The caller has seen that no row is under it.

        Raises:
            UsageError: there is none of this id, or it is the newest.
            IllegalTransition: a replica may still be writing with it.
        """
        if self._clock.now_s() - self._rotated_s < TAKEN_S:
            raise IllegalTransition(
                f"the keys were rotated a moment ago; retire {name[:40]} in {TAKEN_S:.0f} s"
            )
        self._replace(lambda ring: ring.without(name))

    def _replace(self, change: Callable[[Keyring], Keyring]) -> None:
        """On disk first: a key that encrypts is never one that a crash could lose."""
        with self._lock:
            changed = change(self._ring)
            save_keyring(self._path, changed)
            self._ring = changed
