"""`aios.emit`: an event sent from wherever code runs, such as a flow's step."""

import os
import threading
from typing import Any

from aios.kernel.processes import HOME_VARIABLE
from aios.records.events import Sink
from aios.runtime.lifecycle import connect
from aios.runtime.runtime import Runtime

_lock = threading.Lock()
_here: dict[str | None, Runtime] = {}


def emit(
    type: str,
    data: Any = None,
    *,
    to: Sink,
    id: str | None = None,
    source: str = "aios",
    subject: str | None = None,
    key: str | None = None,
) -> str:
    """Send an event by the runtime that this process belongs to, else by the one that
    `aios.connect()` finds; it is on disk when this returns. See `Runtime.emit`.

    A step that may run twice gives an `id`, and the event is sent once.

    Raises:
        UsageError: no runtime is known here, or the event or sink cannot be taken.
        ClusterUnavailable: the runtime does not answer.
    """
    return _runtime().emit(type, data, to=to, id=id, source=source, subject=subject, key=key)


def _runtime() -> Runtime:
    """One connection for all calls of this process."""
    home = os.environ.get(HOME_VARIABLE)
    with _lock:
        if home not in _here:
            _here[home] = connect()
        return _here[home]
