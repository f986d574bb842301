"""Tells people of alarms: each alert is on disk first, then sent until it has arrived.

The same alert is never sent to a sink again once it has arrived there. A kernel that is killed
between an arrival and the note of it sends it once more, under the same id. Each sink has a thread
of its own while something is sent to it, so that one that hangs holds up nobody else.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aios.clock import Clock
from aios.errors import AiosError, StoreCorrupt, UsageError
from aios.kernel.alert_delivery import deliver
from aios.monitoring.alerting import message_of
from aios.monitoring.watching import Raised, Resolved
from aios.records.alerts import Alert, AlertMessage
from aios.records.watching import Watch
from aios.registry import Change, Outbox, QueuedAlert

LOOK_S = 1.0
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 900.0
"""Pauses double up to this, so that a sink that is back hears of it within a quarter hour."""
GIVE_UP_S = 86_400.0
KEEP_TRYING_S = 1.0
"""Between attempts to note what became of an alert while the store cannot be written."""

Send = Callable[[Alert, AlertMessage, float], None]

logger = logging.getLogger("aios.kernel")

_SINK: TypeAdapter[Alert] = TypeAdapter(Alert)


class Alerts:
    """Delivers what is in the outbox.

    Args:
        send: one attempt: (sink, message, now in Unix seconds); raises an AiosError that says why
            it was not delivered and holds no secret.
    """

    def __init__(self, outbox: Outbox, clock: Clock, send: Send = deliver) -> None:
        self._outbox = outbox
        self._clock = clock
        self._send = send
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aios-alerts", daemon=True)
        self._sending: dict[str, threading.Thread] = {}

    def start(self) -> None:
        """Begin to send, and go on with what the kernel before left."""
        self._thread.start()

    def close(self) -> None:
        """Stop sending; the next kernel goes on."""
        self._closed.set()
        for thread in (self._thread, *self._sending.values()):
            if thread.is_alive():
                thread.join(timeout=10)

    def tell(self, change: Change, watch: Watch, action: Raised | Resolved) -> None:
        """See that everybody whom a watch names is told, once the change is on disk."""
        if watch.spec.alerts:
            what = "alarm" if isinstance(action, Raised) else "alarm_over"
            alert_id = f"{watch.id}-{action.alarm.id}-{what}"
            change.add_alert(message_of(watch, action, alert_id, change.at_s), watch.spec.alerts)

    def undelivered(self, watch_id: str) -> list[dict[str, Any]]:
        """Alerts of a watch that did not arrive, for people; see `Outbox.undelivered`."""
        rows = self._outbox.undelivered(watch_id)
        return [
            {
                **row,
                "sink": _shown(row["sink"]),
                "problem": row["problem"] or "it has not answered yet",
            }
            for row in rows
        ]

    def look(self) -> list[threading.Thread]:
        """Begin an attempt for each sink that has an alert due and none on its way.

        Returns:
            The threads of the attempts.
        """
        # Who is busy is asked first: a thread that has ended noted before what became of its alert.
        self._sending = {key: one for key, one in self._sending.items() if one.is_alive()}
        now_s, begun = self._clock.now_s(), []
        for row in self._outbox.heads():
            # An alert due in a future that no pause reaches was put there by a clock set back.
            due = row.due_s <= now_s or row.due_s > now_s + LONGEST_PAUSE_S
            if due and row.sink_key not in self._sending:
                thread = threading.Thread(
                    target=self._attempt, args=(row,), name="aios-alert", daemon=True
                )
                self._sending[row.sink_key] = thread
                thread.start()
                begun.append(thread)
        return begun

    def _run(self) -> None:
        while not self._closed.wait(LOOK_S):
            try:
                self.look()
            except Exception:
                logger.exception("alerts could not be looked at; the next look is in %s s", LOOK_S)

    def _attempt(self, row: QueuedAlert) -> None:
        sink = _shown(row.sink)
        try:
            self._send(*_read(row), self._clock.now_s())
        except AiosError as error:
            problem = error.message
        except Exception as error:
            logger.exception("alert %s to %s: the attempt broke", row.alert_id, sink)
            problem = f"unexpected {type(error).__name__}; the kernel's log says more"
        else:
            self._note(lambda: self._outbox.sent(row.seq))
            return
        now_s, attempts = self._clock.now_s(), row.attempts + 1
        if now_s - row.created_s >= GIVE_UP_S:
            logger.error(
                "alert %s to %s given up after %d attempts: %s",
                *(row.alert_id, sink, attempts, problem),
            )
            self._note(lambda: self._outbox.given_up(row.seq, problem))
            return
        pause_s = pause_after(attempts)
        logger.warning(
            "alert %s to %s not delivered, next attempt in %.0f s: %s",
            *(row.alert_id, sink, pause_s, problem),
        )
        self._note(lambda: self._outbox.failed(row.seq, problem, now_s + pause_s))

    def _note(self, write: Callable[[], None]) -> None:
        """Keep what became of an alert. While the store cannot be written the sink waits: to go
        on would send the same alert again and again."""
        while True:
            try:
                write()
            except AiosError as error:
                logger.error("what became of an alert cannot be noted yet: %s", error.message)
                if self._closed.wait(KEEP_TRYING_S):
                    return
            else:
                return


def _read(row: QueuedAlert) -> tuple[Alert, AlertMessage]:
    try:
        return _SINK.validate_python(row.sink), AlertMessage.model_validate(row.message)
    except (ValidationError, UsageError):
        raise StoreCorrupt(
            "the store holds an alert that cannot be read; use the aios version that wrote it"
        ) from None


def _shown(sink: dict[str, Any]) -> str:
    try:
        return _SINK.validate_python(sink).shown
    except (ValidationError, UsageError):
        return "a sink that cannot be read"


def pause_after(attempts: int) -> float:
    """Seconds until the next attempt after so many failed ones.

    >>> [pause_after(n) for n in (1, 2, 3, 8, 9, 200)]
    [5.0, 10.0, 20.0, 640.0, 900.0, 900.0]
    """
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 30))
