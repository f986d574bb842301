"""The load generator: one thread, non-blocking reads, prepared bytes, many connections.

An open stream sends each request when it is due, whether or not the last ones were answered, and
counts latency from that moment: what users wait while a server stalls is in the figures, although
nothing could be sent just then ("coordinated omission", G. Tene, How NOT to Measure Latency).
A closed loop sends the next request of a connection when the last one is answered; it is there to
ask how much a server can do at most, and its percentiles are not what users would see.

A generator that is late itself measures itself. So the time by which it sent later than was due
although a connection was free is kept beside the latencies, with its own CPU time: see `held_back`.
"""

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from hdrh.histogram import HdrHistogram

from aios.capacity.answers import Judge, complete

SILENCE_S = 30.0
"""A server that answers nothing for so long ends the run."""
KEPT_FAILURES = 3
MOST_US = 3_600_000_000
DIGITS = 3
HEAD_START_NS = 50_000_000
"""From connecting to the first request that is due."""


def new_histogram() -> HdrHistogram:
    """Of microseconds, 1 to an hour, each kept to a thousandth of itself."""
    return HdrHistogram(1, MOST_US, DIGITS)


class Seen:
    """What the generator saw in one stretch of time.

    Attributes:
        took: latencies of good answers. `late`: by how much requests were sent later than due
            for the generator's own reasons. Both in microseconds.
        canary: good answers that say they came from the canary arm.
    """

    def __init__(self) -> None:
        self.took, self.late = new_histogram(), new_histogram()
        self.good = self.failed = self.canary = 0
        self.failures: list[str] = []

    def fail(self, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(reason)


class _Connection:
    """One keep-alive connection with at most one request in flight; `due_ns` is 0 without one."""

    __slots__ = ("due_ns", "index", "received", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.index = self.due_ns = 0


class Generator:
    """Drives all connections from one thread.

    Args:
        address: host and port.
        requests: complete HTTP requests, sent in turn.
        judge: says what is wrong with the answer to request number `index`.
        connections: how many are opened; more requests than that in flight wait here, and their
            wait counts.
    """

    def __init__(
        self,
        address: tuple[str, int],
        requests: Sequence[bytes],
        judge: Judge,
        connections: int,
    ) -> None:
        self._address = address
        self._requests = requests
        self._judge = judge
        self._next = 0
        # Not epoll: Python rounds its timeouts up to a whole millisecond.
        self._selector = selectors.SelectSelector()
        self._free: list[_Connection] = []
        self._connections = connections
        self._in_flight = 0
        self._counted_from_ns = 0
        self._after: Callable[[_Connection], None] = self._free.append
        self.seen = Seen()
        self.answered_in_all = 0

    def closed(self, warm_up_s: float, measure_s: float, at_start: Callable[[], None]) -> float:
        """Keep every connection busy; returns the measured seconds. What is in flight at the
        end is awaited and counted only if it fails."""
        self._open()
        self._after = self._send_now
        while self._free:
            self._send_now(self._free.pop())
        self._drive(warm_up_s)
        warm, self.seen = self.seen, Seen()
        at_start()
        started_s = time.perf_counter()
        self._drive(measure_s)
        measured, window_s = self.seen, time.perf_counter() - started_s
        self.seen, self._after = Seen(), self._free.append
        self._finish()
        for around in (warm, self.seen):  # failures count whenever they happen
            measured.failed += around.failed
            measured.failures = (measured.failures + around.failures)[:KEPT_FAILURES]
        self.seen = measured
        return window_s

    def open(
        self,
        due_ns: Sequence[int],
        warm_up_s: float,
        give_up_s: float,
        at_start: Callable[[], None],
    ) -> None:
        """Send each request when it is due.

        Args:
            due_ns: nanoseconds from the start, ascending.
            warm_up_s: what is due before this is sent and not counted.
            give_up_s: how long after the last one was due answers are awaited; those that did
                not come by then have failed.
        """
        self._open()
        waiting: deque[int] = deque()

        def answered(connection: _Connection) -> None:
            if waiting:
                self._send(connection, waiting.popleft())
            else:
                self._free.append(connection)

        self._after = answered
        clock = time.perf_counter_ns
        start_ns = clock() + HEAD_START_NS
        self._counted_from_ns = start_ns + int(warm_up_s * 1e9)
        end_ns = start_ns + (due_ns[-1] if len(due_ns) else 0) + int(give_up_s * 1e9)
        number, count, begun = 0, len(due_ns), False
        while number < count or self._in_flight or waiting:
            now_ns = clock()
            if not begun and now_ns >= self._counted_from_ns:
                begun = True
                at_start()
                now_ns = clock()
            while number < count and start_ns + due_ns[number] <= now_ns:
                this_ns = start_ns + due_ns[number]
                number += 1
                if self._free:
                    self._send(self._free.pop(), this_ns)
                    self._note_late(this_ns)
                else:
                    waiting.append(this_ns)
            if now_ns > end_ns:
                break
            next_ns = start_ns + due_ns[number] if number < count else end_ns + 1
            self._read(max(0.0, (next_ns - clock()) / 1e9))
        for late_ns in waiting:
            self._fail(late_ns, "it could not be sent: all connections waited for answers")
        self._abandon()

    def close(self) -> None:
        """Close all connections."""
        for key in list(self._selector.get_map().values()):
            self._drop(key.data)

    def _note_late(self, due_ns: int) -> None:
        if due_ns >= self._counted_from_ns:
            late_us = (time.perf_counter_ns() - due_ns) // 1000
            self.seen.late.record_value(min(max(late_us, 1), MOST_US))

    def _open(self) -> None:
        for _ in range(self._connections):
            self._free.append(self._connect())

    def _connect(self) -> _Connection:
        connection = _Connection(self._address)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _send_now(self, connection: _Connection) -> None:
        self._send(connection, time.perf_counter_ns())

    def _send(self, connection: _Connection, due_ns: int) -> None:
        connection.index = self._next
        self._next = self._next + 1 if self._next + 1 < len(self._requests) else 0
        connection.due_ns = due_ns
        self._in_flight += 1
        try:
            connection.socket.sendall(self._requests[connection.index])
        except OSError as error:
            self._broken(connection, repr(error))

    def _drive(self, seconds: float) -> None:
        end_ns = time.perf_counter_ns() + int(seconds * 1e9)
        while time.perf_counter_ns() < end_ns:
            if not self._read(SILENCE_S):
                raise TimeoutError(f"no answer from {self._address} for {SILENCE_S:.0f} s")

    def _finish(self) -> None:
        while self._in_flight:
            if not self._read(SILENCE_S):
                raise TimeoutError(f"no answer from {self._address} for {SILENCE_S:.0f} s")

    def _abandon(self) -> None:
        for key in self._selector.get_map().values():
            if key.data.due_ns:
                self._fail(key.data.due_ns, "no answer came in time")

    def _read(self, timeout_s: float) -> bool:
        """Whether anything came."""
        events = self._selector.select(timeout_s)
        for key, _ in events:
            self._readable(key.data)
        return bool(events)

    def _readable(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(65_536)
        except OSError as error:
            self._broken(connection, repr(error))
            return
        if not data:
            self._broken(connection, "the server closed the connection")
            return
        if connection.received:
            data = connection.received + data
        answer = complete(data)
        if answer is None:
            connection.received = data
            return
        connection.received = b""
        self._answered(connection, *answer)

    def _answered(self, connection: _Connection, status: bytes, body: bytes) -> None:
        due_ns, connection.due_ns = connection.due_ns, 0
        took_us = (time.perf_counter_ns() - due_ns) // 1000
        self._in_flight -= 1
        self.answered_in_all += 1
        wrong = self._judge(connection.index, status, body)
        if wrong is not None:
            self._fail(due_ns, wrong)
        elif due_ns >= self._counted_from_ns:
            self.seen.good += 1
            self.seen.took.record_value(min(max(took_us, 1), MOST_US))
            self.seen.canary += b'"arm":"canary"' in body
        self._after(connection)

    def _fail(self, due_ns: int, reason: str) -> None:
        if due_ns >= self._counted_from_ns:
            self.seen.fail(reason)

    def _broken(self, connection: _Connection, reason: str) -> None:
        """Replace it; it is a failure only if an answer was owed."""
        due_ns = connection.due_ns
        self._drop(connection)
        if not due_ns:
            if connection in self._free:
                self._free.remove(connection)
                self._free.append(self._connect())
            return
        self._in_flight -= 1
        self._fail(due_ns, reason)
        self._after(self._connect())

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
