"""Sends what is in the outbox: each event until its sink has it, in the order in which they came.

An event that arrives while the kernel dies is sent once more, under the same id.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from traceback import format_exception

import orjson
from pydantic import ValidationError

from aios.clock import Clock
from aios.errors import AiosError, StoreCorrupt, UsageError, describe
from aios.events.dispatching import MOST_ATTEMPTS, pause_after
from aios.events.sinks import Sender, open_sender
from aios.records.events import SINK, Sink
from aios.registry.events import EventStore, Leaving

LOOK_S = 0.2
BATCH = 200

Open = Callable[[Sink, Path], Sender]
logger = logging.getLogger("aios.kernel")


class Sending:
    """A thread that looks, and one for each sink while something is sent to it.

    Args:
        home: of the runtime, where secret files are.
        open_sender: connects to a sink.
    """

    def __init__(
        self, store: EventStore, clock: Clock, home: Path, open_sender: Open = open_sender
    ) -> None:
        self._store = store
        self._clock = clock
        self._home = home
        self._open = open_sender
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aios-outbox", daemon=True)
        self._busy: dict[str, threading.Thread] = {}
        self._senders: dict[str, Sender] = {}
        self.problems: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Send nothing more; the next kernel goes on."""
        self._closed.set()
        for thread in (self._thread, *self._busy.values()):
            if thread.is_alive():
                thread.join(timeout=10)
        for name in list(self._senders):
            self._let_go(name)

    def look(self) -> list[threading.Thread]:
        """Begin to send to each sink for which something is due and nothing on its way."""
        self._busy = {name: one for name, one in self._busy.items() if one.is_alive()}
        begun = []
        for name, rows in self._store.leaving(BATCH).items():
            if name not in self._busy:
                thread = threading.Thread(
                    target=self._try, args=(name, rows), name="aios-sink", daemon=True
                )
                self._busy[name] = thread
                thread.start()
                begun.append(thread)
        return begun

    def _run(self) -> None:
        while not self._closed.wait(LOOK_S):
            try:
                self.look()
            except Exception:
                logger.exception("the outbox could not be looked at; the next look is soon")

    def _try(self, name: str, rows: list[Leaving]) -> None:
        try:
            self._send(name, rows)
        except AiosError as error:
            # What became of them is not noted: they are sent again, under the same ids.
            logger.error("what became of sent events cannot be noted: %s", error.message)

    def _send(self, name: str, rows: list[Leaving]) -> None:
        """Send a batch. If it does not arrive, its first alone: a bad event is told from an absent
        sink so, and those before a bad one are not sent again and again."""
        problem = self._attempt(name, rows)
        if problem is None:
            self._store.left([row.seq for row in rows])
            self.problems.pop(name, None)
            self.counts["sent"] += len(rows)
            return
        if len(rows) > 1:
            self._send(name, rows[:1])
            return
        [row] = rows
        self.problems[name] = told = describe(problem)
        refused = isinstance(problem, UsageError) and self._connected(name)
        attempts = row.attempts + 1
        if refused and attempts >= MOST_ATTEMPTS:
            trace = "".join(format_exception(problem))[-10_000:]
            self._store.cannot_leave(row, attempts, told, trace)
            self.counts["dead"] += 1
            logger.warning("an event is set aside, its sink does not take it: %s", told)
            return
        pause_s = pause_after(row.attempts)
        logger.warning("an event is not sent, next attempt in %.0f s: %s", pause_s, told)
        self._store.not_left(row, attempts, told, self._clock.now_s() + pause_s)

    def _connected(self, name: str) -> bool:
        """Whether the sink was reached: a missing secret is no fault of the event."""
        return name in self._senders

    def _attempt(self, name: str, rows: list[Leaving]) -> Exception | None:
        try:
            if name not in self._senders:
                self._senders[name] = self._open(_read(rows[0]), self._home)
        except AiosError as error:
            return error
        except Exception as error:
            logger.exception("a sink cannot be reached")
            return error
        try:
            self._senders[name].send([(_id(row), row.key, row.event.encode()) for row in rows])
        except UsageError as error:
            return error
        except Exception as error:  # noqa: BLE001  it is kept with the event
            self._let_go(name)
            return error
        return None

    def _let_go(self, name: str) -> None:
        sender = self._senders.pop(name, None)
        try:
            if sender is not None:
                sender.close()
        except Exception as error:  # noqa: BLE001  it is gone either way
            logger.info("a sink was not closed: %r", error)


def _read(row: Leaving) -> Sink:
    try:
        return SINK.validate_python(row.sink)
    except (ValidationError, UsageError):
        raise StoreCorrupt(
            "the outbox holds a sink that cannot be read; use the aios version that wrote it"
        ) from None


def _id(row: Leaving) -> str:
    return str(orjson.loads(row.event)["id"])
