"""What reads a source, and the loop that hands what it reads to the kernel.

A batch is acknowledged to its source only once the kernel has it on disk. Whoever dies in between
reads it again, and the inbox knows it by its coordinates.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aios.errors import AiosError
from aios.events.reading import Message, Reader
from aios.records.events import Incoming, SubscriptionSpec

BATCH = 1_000
"""Messages of one transaction: large enough that its fsync costs little of each."""
POLL_S = 0.5
HELD_S = 0.25
"""Between two questions whether the inbox has room again."""
LAG_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0

logger = logging.getLogger("aios.events")


class Batch(NamedTuple):
    """Messages in the order of their source; `mark` is what `ack` needs of them, `problem` why
    none may come."""

    messages: Sequence[Message]
    mark: Any = None
    problem: str | None = None


class Consumer(Protocol):
    """One reader of a source. Not shared between threads."""

    def poll(self, most: int, wait_s: float) -> Batch:
        """What came since the last poll, after at most `wait_s`; may be empty.

        Raises:
            AiosError: it cannot be read now, and why.
        """

    def ack(self, batch: Batch) -> None:
        """The batch is on disk: the source may forget it."""

    def idle(self) -> None:
        """Nothing is polled for a while, as the inbox is full; called every `HELD_S`, so that the
        source does not take this reader for dead."""

    def lag(self) -> int | None:
        """How many messages wait at the source; None if it does not say."""

    def close(self) -> None:
        """Let go of the source. What was not acknowledged is read again."""


class Taking(NamedTuple):
    """The kernel's answer to a batch: whether to go on, or to wait until there is room."""

    hold: bool
    gone: bool = False


Take = Callable[[list[Incoming], int], Taking]
"""Hands over (what was read, how many were filtered since the last time)."""


@dataclass
class Progress:
    """What a reader has done, as the kernel asks for it every second."""

    taken: int = 0
    lag: int | None = None
    held: bool = False
    problem: str | None = None
    looked_s: float = field(default_factory=time.monotonic)


class Pump:
    """Reads until it is closed; in a thread of its own, or step by step in tests.

    Args:
        open_consumer: makes the reader; called again after a failure.
        take: see `Take`; raises a TemporaryError while there is no kernel.
    """

    def __init__(
        self, spec: SubscriptionSpec, open_consumer: Callable[[], Consumer], take: Take
    ) -> None:
        self.progress = Progress()
        self._reader = Reader(spec)
        self._open = open_consumer
        self._take = take
        self._closed = threading.Event()
        self._consumer: Consumer | None = None
        self._lag_due_s = 0.0

    def run(self) -> None:
        """Read until `close`; whatever fails is tried again, with pauses."""
        pause_s = FIRST_PAUSE_S
        while not self._closed.is_set():
            try:
                if self._consumer is None:
                    self._consumer = self._open()
                self.step()
                pause_s = FIRST_PAUSE_S
            except Exception as error:  # noqa: BLE001  whatever a client library raises
                told = error.message if isinstance(error, AiosError) else f"{error!r:.300}"
                if told != self.progress.problem:
                    logger.warning("%s: %s", self._reader.spec.source.shown, told)
                self.progress.problem = told
                self._let_go()
                self._closed.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        self._let_go()

    def step(self) -> int:
        """Read one batch, hand it over, acknowledge it; returns how many messages it had."""
        consumer = self._consumer or self._open()
        self._consumer = consumer
        batch = consumer.poll(BATCH, POLL_S)
        if batch.messages:
            self._hand_over(consumer, batch)
        self.progress.problem = batch.problem
        self.progress.looked_s = time.monotonic()
        if time.monotonic() >= self._lag_due_s:
            self.progress.lag = consumer.lag()
            self._lag_due_s = time.monotonic() + LAG_S
        return len(batch.messages)

    def close(self) -> None:
        """End `run` after its step."""
        self._closed.set()

    def _hand_over(self, consumer: Consumer, batch: Batch) -> None:
        read = [one for one in map(self._reader.read, batch.messages) if one is not None]
        filtered, self._reader.filtered = self._reader.filtered, 0
        answer = self._patiently(consumer, read, filtered)
        if answer is None or answer.gone:
            return  # closed, or nobody's any more: the source keeps what was not acknowledged
        consumer.ack(batch)
        self.progress.taken += len(batch.messages)
        self.progress.held = answer.hold
        while answer is not None and answer.hold and not self._closed.wait(HELD_S):
            consumer.idle()
            answer = self._patiently(consumer, [], 0)
        self.progress.held = False

    def _patiently(self, consumer: Consumer, read: list[Incoming], filtered: int) -> Taking | None:
        """The kernel's answer, asked for until there is one; None once this is closed."""
        while not self._closed.is_set():
            self.progress.looked_s = time.monotonic()
            try:
                return self._take(read, filtered)
            except AiosError as error:
                self.progress.problem = f"not taken yet: {error.message}"
                consumer.idle()
                self._closed.wait(HELD_S)
        return None

    def _let_go(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                consumer.close()
            except Exception as error:  # noqa: BLE001  it is gone either way
                logger.info("%s was not closed: %r", self._reader.spec.source.shown, error)
