"""Real applications as HTTP traffic, at a steady rate that does not wait for answers."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import orjson

import aios
from apps.loan_approval.connection import (
    ClosedBeforeAnswer,
    Connection,
    MalformedAnswer,
    Response,
)
from apps.loan_approval.outcomes import Failure, Ledger, Outcomes, Stats, window_stats

DRAWN_AT_A_TIME = 4096


class Replay:
    """Sends applications to an endpoint from a thread of its own until it is stopped.

    Open loop: request i is due at start + i / rate, whatever happened to those before, and
    its latency counts from then, so that an outage shows in full ("coordinated omission",
    G. Tene). `clients` connections share the schedule; if all are busy the requests wait
    here, and the wait is in their latency.

    Args:
        url: the runtime's ingress, `http://127.0.0.1:8000`.
        key: the API key.
        records: what to send, one record per request, drawn at random with the seed.
        rate_per_s: requests per second.
        clients: keep-alive connections, the most requests in flight.
        endpoint: the endpoint's name.
        timeout_s: a request without an answer for so long has failed.
        seed: of the draw.

    Raises:
        aios.UsageError: the URL is not http, or there is nothing to send.
    """

    def __init__(
        self,
        url: str,
        key: str,
        records: Sequence[dict[str, Any]],
        rate_per_s: float,
        *,
        clients: int = 32,
        endpoint: str = "loan",
        timeout_s: float = 10.0,
        seed: int = 7,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise aios.UsageError(f"the replay speaks plain http and cannot call {url!r}")
        if not records or rate_per_s <= 0 or clients < 1:
            raise aios.UsageError("a replay needs records, a rate above 0 and a client")
        self._host, self._port = parts.hostname, parts.port or 80
        path = f"{parts.path.rstrip('/')}/v2/models/{endpoint}/predict"
        self._requests = [_encode(path, parts.netloc, key, record) for record in records]
        self._rate_per_s = rate_per_s
        self._clients = clients
        self._timeout_s = timeout_s
        self._seed = seed
        self._ledger = Ledger(time.time())
        self._started_s = time.monotonic()
        self._stopped_s: float | None = None
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sleeping: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="loan-replay", daemon=True)

    def start(self) -> Self:
        """Begin to send; returns at once."""
        self._ledger = Ledger(time.time())
        self._started_s = time.monotonic()
        self._thread.start()
        return self

    def stop(self) -> Stats:
        """Send no more, wait for the answers under way, and give the totals. Idempotent."""
        self._stopping = True
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._wake)
        if self._thread.ident is not None:
            self._thread.join(self._timeout_s + 5.0)
        if self._stopped_s is None:
            self._stopped_s = time.monotonic()
        return self.stats()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, until now or the stop."""
        return (self._stopped_s or time.monotonic()) - self._started_s

    @property
    def counts(self) -> Stats:
        """Totals so far, without latencies."""
        return self._ledger.counts(self.elapsed_s)

    @property
    def failures(self) -> list[Failure]:
        """The first failed requests, with what came back."""
        return self._ledger.failures

    def outcomes(self) -> Outcomes:
        """A copy of every request's outcome so far."""
        return self._ledger.outcomes()

    def stats(self, last_s: float | None = None) -> Stats:
        """Figures since the start, or over the last seconds (cheap: for a live display).

        Raises:
            RuntimeError: the replay itself broke, so its figures mean nothing.
        """
        if self._error is not None:
            raise RuntimeError("the replay broke; its figures are void") from self._error
        if last_s is None:
            return self._ledger.totals(self.elapsed_s)
        rows = self._ledger.outcomes(last=int(2 * last_s * self._rate_per_s) + self._clients)
        return window_stats(rows, self.elapsed_s, last_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as error:  # noqa: BLE001 - kept for `stats`, which raises it
            self._error = error

    async def _send_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        schedule = enumerate(_drawn(len(self._requests), self._seed))
        senders = [self._loop.create_task(self._sender(schedule)) for _ in range(self._clients)]
        for done in asyncio.as_completed(senders):
            await done

    async def _sender(self, schedule: Iterator[tuple[int, int]]) -> None:
        connection = Connection(self._host, self._port)
        try:
            while not self._stopping:
                number, chosen = next(schedule)
                due_s = number / self._rate_per_s
                if not await self._wait_until(due_s):
                    return
                await self._send(connection, self._requests[chosen], due_s)
        finally:
            connection.close()

    async def _wait_until(self, due_s: float) -> bool:
        """False if the replay was stopped meanwhile."""
        wait_s = self._started_s + due_s - time.monotonic()
        if wait_s <= 0:
            return True
        task = asyncio.current_task()
        assert task is not None
        self._sleeping.add(task)
        try:
            await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            if self._stopping:
                return False
            raise
        finally:
            self._sleeping.discard(task)
        return not self._stopping

    def _wake(self) -> None:
        for task in self._sleeping:
            task.cancel()

    async def _send(self, connection: Connection, request: bytes, due_s: float) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._exchange(connection, request)
        except (OSError, EOFError, TimeoutError, MalformedAnswer, ClosedBeforeAnswer) as error:
            reason = str(error) or type(error).__name__
            self._ledger.unanswered(due_s, self.elapsed_s - due_s, reason)
            return
        latency_s = self.elapsed_s - due_s
        self._ledger.answered(due_s, latency_s, answer.status, answer.headers, answer.body)

    async def _exchange(self, connection: Connection, request: bytes) -> Response:
        try:
            return await connection.exchange(request)
        except ClosedBeforeAnswer:
            self._ledger.reconnected()
            return await connection.exchange(request)


def _encode(path: str, host: str, key: str, record: dict[str, Any]) -> bytes:
    body = orjson.dumps({"records": [record]})
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _drawn(count: int, seed: int) -> Iterator[int]:
    """Row numbers at random for ever, the same for the same seed."""
    generator = np.random.default_rng(seed)
    draws = (generator.integers(count, size=DRAWN_AT_A_TIME).tolist() for _ in itertools.count())
    return itertools.chain.from_iterable(draws)
