"""The check before every command: permitted, or refused and written to the audit log."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aios.clock import Clock
from aios.errors import Forbidden
from aios.kernel.words import spoken
from aios.registry import Registry
from aios.security import Caller, holders, needed, permits

DENIALS_PER_WINDOW = 10
WINDOW_S = 60.0
"""A program with the wrong key tries again and again; ten entries a minute tell as much as a
thousand, and cannot fill the disk."""
_LONGEST_WHY = 500
_THINGS = ("name", "endpoint", "ref", "id", "version", "subject", "identity")


@dataclass
class _Window:
    """The denied attempts of one identity since `began_s`."""

    began_s: float
    written: int = 0
    uncounted: int = 0


SENDS = " with a text that is new here; what was sent before it may begin by its name"


class Access:
    """Whether a caller may do what it asks.

    Per identity `DENIALS_PER_WINDOW` denied attempts get an audit entry of their own within
    `WINDOW_S`; those beyond are counted, and the count is written when the window is over
    and somebody calls, or at `close`. A kernel that is killed loses at most the counts of
    one window.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def check(self, command: str, arguments: Mapping[str, Any], caller: Caller) -> None:
        """Return if the caller may do this.

        Raises:
            Forbidden: it may not; says which roles may.
        """
        self._write_counts(self._clock.monotonic_s() - WINDOW_S)
        permission = needed(command, arguments)
        if permission is not None and permits(caller.role, permission):
            return
        roles = [] if permission is None else holders(permission)
        self._note(command, arguments, caller, {"needs": permission})
        raise Forbidden(
            f"{caller.identity} has the role {caller.role}, which may not {spoken(command)}"
            f"{SENDS if command in ('define_agent', 'define_flow') else ''}: "
            f"that needs {' or '.join(roles) or 'a role that no key can have'}; "
            "ask an administrator, who lists and makes keys with rt.keys",
            command=command,
            role=caller.role,
            roles=roles,
        )

    def refused(self, command: str, arguments: Mapping[str, Any], caller: Caller, why: str) -> None:
        """Note an attempt that the role permits and a rule does not, such as to approve one's
        own version or to serve one that has not passed its gates."""
        self._note(command, arguments, caller, {"why": why[:_LONGEST_WHY]})

    def close(self) -> None:
        """Write down what was only counted so far."""
        self._write_counts(float("inf"))

    def _note(
        self, command: str, arguments: Mapping[str, Any], caller: Caller, more: dict[str, Any]
    ) -> None:
        if self._takes_entry(caller.identity):
            told = {"command": command, "role": caller.role, **more}
            self._write(caller.identity, _thing(command, arguments), told)

    def _takes_entry(self, identity: str) -> bool:
        now_s = self._clock.monotonic_s()
        with self._lock:
            window = self._windows.setdefault(identity, _Window(now_s))
            if window.written >= DENIALS_PER_WINDOW:
                window.uncounted += 1
                return False
            window.written += 1
            return True

    def _write_counts(self, until_s: float) -> None:
        """End all windows that began before `until_s`."""
        if not self._windows:
            return
        with self._lock:
            over = {who: one for who, one in self._windows.items() if one.began_s <= until_s}
            for identity in over:
                del self._windows[identity]
        for identity, window in over.items():
            if window.uncounted:
                self._write(identity, identity, {"further_attempts": window.uncounted})

    def _write(self, identity: str, subject: str, details: dict[str, Any]) -> None:
        with self._registry.change(
            actor=identity, action="denied", subject=subject, details=details
        ):
            pass


def _thing(command: str, arguments: Mapping[str, Any]) -> str:
    """What the caller wanted to touch, as the audit log's subject: texts from outside, bounded."""
    for field in _THINGS:
        if isinstance(arguments.get(field), str) and arguments[field]:
            spelled = arguments[field][:100]
            # What cannot stand in the log would leave the attempt out of it.
            return "".join(one if one.isprintable() else "?" for one in spelled)
    return command
