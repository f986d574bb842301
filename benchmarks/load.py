"""A closed-loop HTTP load generator in a process of its own, and how to run one.

Each connection is kept alive and sends the next request as soon as the last is answered.
One thread serves all connections with non-blocking sockets and prepared bytes: 55 us of CPU
per request on the busy machine of the README, against 240 us and more of any server measured
there. Every answer is read in full and its score compared with the expected one.

Closed loops wait for slow answers, so percentiles here are service times under this load,
not what an open stream of users would see in an outage ("coordinated omission", G. Tene).
"""

import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import orjson

from benchmarks.scorer import OUTPUT

SILENCE_S = 30.0
"""A server that answers nothing for so long ends the run."""
TOLERANCE = 1e-4
STARTED = b"started\n"
KEPT_FAILURES = 3
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Target:
    """Where a contestant answers, and which headers it wants."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What one run of the generator saw in its measured window.

    `answered_in_all` counts the warm-up too; `canary` the answers that say they came from
    the canary arm; `client_cpu_s` is the generator's own CPU time.
    """

    latencies_us: list[int]
    failed: int
    failures: list[str]
    canary: int
    window_s: float
    client_cpu_s: float
    answered_in_all: int


def run_load(
    target: Target,
    bodies: Sequence[bytes],
    expected: Sequence[float],
    *,
    connections: int,
    warm_up_s: float,
    measure_s: float,
    at_start: Callable[[], None],
) -> Outcome:
    """Put load on `target` from another process.

    Args:
        bodies: JSON records, one per request, sent in turn.
        expected: the right score of each.
        at_start: called when the warm-up is over and the measured window begins.

    Raises:
        RuntimeError: the generator broke; ends with what it said.
    """
    parts = urlsplit(target.url)
    job = {
        "host": parts.hostname,
        "port": parts.port,
        "requests": [_request(target, body).decode("latin-1") for body in bodies],
        "expected": expected,
        "connections": connections,
        "warm_up_s": warm_up_s,
        "measure_s": measure_s,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(orjson.dumps(job))
        process.stdin.close()
        process.stdin = None
        if process.stdout.readline() == STARTED:
            at_start()
        output, errors = process.communicate(timeout=measure_s + SILENCE_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the load generator broke: {errors.decode(errors='replace')[-2000:]}")
    return Outcome(**json.loads(output))


def _request(target: Target, body: bytes) -> bytes:
    parts = urlsplit(target.url)
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in target.headers.items()),
    ]
    return "\r\n".join(lines).encode() + _HEAD_END + body


class _Connection:
    """One keep-alive connection: at most one request in flight."""

    __slots__ = ("expected", "received", "sent_ns", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.expected = 0.0
        self.sent_ns = 0


class Generator:
    """Drives all connections from one thread.

    Args:
        address: host and port.
        requests: complete HTTP requests, sent in turn.
        expected: the right score of each.
        connections: how many are kept busy.
    """

    def __init__(
        self,
        address: tuple[str, int],
        requests: list[bytes],
        expected: list[float],
        connections: int,
    ) -> None:
        self._address = address
        self._requests = requests
        self._expected = expected
        self._next = 0
        self._selector = selectors.DefaultSelector()
        self._connections = connections
        self.latencies_us: list[int] = []
        self.failures: list[str] = []
        self.failed = self.canary = self.answered_in_all = 0

    def run(self, warm_up_s: float, measure_s: float, at_start: Callable[[], None]) -> Outcome:
        """Warm up, then measure. Requests in flight at the end are awaited, not counted."""
        for _ in range(self._connections):
            self._open()
        self._drive(warm_up_s)
        self.latencies_us, self.canary = [], 0
        at_start()
        started_s, cpu_s = time.perf_counter(), time.process_time()
        self._drive(measure_s)
        window_s, client_cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        latencies_us, canary = self.latencies_us, self.canary
        self._finish()
        return Outcome(
            latencies_us=latencies_us[:],
            failed=self.failed,
            failures=self.failures,
            canary=canary,
            window_s=window_s,
            client_cpu_s=client_cpu_s,
            answered_in_all=self.answered_in_all,
        )

    def _drive(self, seconds: float) -> None:
        end_ns = time.perf_counter_ns() + int(seconds * 1e9)
        select = self._selector.select
        while time.perf_counter_ns() < end_ns:
            events = select(SILENCE_S)
            if not events:
                raise TimeoutError(f"no answer from {self._address} for {SILENCE_S:.0f} s")
            for key, _ in events:
                self._readable(key.data, again=True)

    def _finish(self) -> None:
        """Read the answers under way, so that the server's count equals ours."""
        counted = len(self.latencies_us)
        while self._selector.get_map():
            events = self._selector.select(SILENCE_S)
            if not events:
                raise TimeoutError(f"no answer from {self._address} for {SILENCE_S:.0f} s")
            for key, _ in events:
                self._readable(key.data, again=False)
        del self.latencies_us[counted:]

    def _open(self) -> None:
        connection = _Connection(self._address)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        index = self._next
        self._next = index + 1 if index + 1 < len(self._requests) else 0
        connection.expected = self._expected[index]
        connection.sent_ns = time.perf_counter_ns()
        connection.socket.sendall(self._requests[index])

    def _readable(self, connection: _Connection, *, again: bool) -> None:
        try:
            data = connection.socket.recv(65_536)
        except OSError as error:
            self._broken(connection, repr(error), again=again)
            return
        if not data:
            self._broken(connection, "the server closed the connection", again=again)
            return
        if connection.received:
            data = connection.received + data
        answer = complete(data)
        if answer is None:
            connection.received = data
            return
        self.latencies_us.append((time.perf_counter_ns() - connection.sent_ns) // 1000)
        connection.received = b""
        status, body = answer
        self._judge(connection, status, body)
        if again:
            self._send(connection)
        else:
            self._close(connection)

    def _judge(self, connection: _Connection, status: bytes, body: bytes) -> None:
        self.answered_in_all += 1
        if status == b"200":
            score = orjson.loads(body)["outputs"][0][OUTPUT]
            if abs(score - connection.expected) <= TOLERANCE:
                if b'"arm":"canary"' in body:
                    self.canary += 1
                return
        self._failed(f"{status.decode()} {body[:200].decode(errors='replace')}")

    def _broken(self, connection: _Connection, reason: str, *, again: bool) -> None:
        self._failed(reason)
        self._close(connection)
        if again:
            self._open()

    def _failed(self, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(reason)

    def _close(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()


def complete(data: bytes) -> tuple[bytes, bytes] | None:
    """Status and body of a whole answer, or None while some of it is still to come.

    Raises:
        ValueError: the answer says neither its length nor that it comes in chunks.
    """
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    head, start = data[:end].lower(), end + len(_HEAD_END)
    at = head.find(_LENGTH)
    if at >= 0:
        stop = head.find(b"\r", at)
        length = int(head[at + len(_LENGTH) : stop if stop >= 0 else None])
        return (data[9:12], data[start:]) if len(data) >= start + length else None
    if b"transfer-encoding: chunked" not in head:
        raise ValueError(f"an answer without a length: {data[:200]!r}")
    return (data[9:12], _joined(data[start:])) if data.endswith(_LAST_CHUNK) else None


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        body += rest[: int(size, 16)]
        chunks = rest[int(size, 16) + 2 :]
    return body


def main(source: IO[bytes], sink: IO[bytes]) -> None:
    """Read a job, do it, tell when the window starts, and write what was seen."""
    job: dict[str, Any] = orjson.loads(source.read())
    requests = [request.encode("latin-1") for request in job["requests"]]
    generator = Generator((job["host"], job["port"]), requests, job["expected"], job["connections"])

    def started() -> None:
        sink.write(STARTED)
        sink.flush()

    outcome = generator.run(job["warm_up_s"], job["measure_s"], started)
    sink.write(orjson.dumps(asdict(outcome)))
    sink.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
