"""A line from an endpoint's replica straight to a challenger's, beside Serve's handle.

A call through a handle costs some milliseconds of CPU, most of it in the caller, which answers
users; one on a line a tenth of a millisecond. The handle tells where the line is, and is asked
itself while there is none. Frames are a length and a pickle; before either end reads one, both have
proved to the other that they know the challenger's secret, which travels through the handle only.
"""

import asyncio
import hashlib
import hmac
import logging
import pickle
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from aios.contracts import Batch
from aios.serving.challenger import Reply, unpack
from aios.serving.live import ChallengerClient
from aios.serving.runner import Outputs

NONCE_BYTES = 32
UNPROVED_BYTES = 2 * NONCE_BYTES
"""The longest frame taken from who has not proved anything yet."""
MOST_BYTES = 1 << 30
CONNECT_S = 2.0
"""How long two may take to know each other."""
LOOK_S = 1.0
"""How often a replica is looked for while there is no line."""
LOOK_FOR_MORE_S = 10.0
"""The same while there is one: a challenger may have several replicas, or get another one."""
LEAVE_S = 2.0
LENGTH_BYTES = 4

logger = logging.getLogger("aios.serving")


class Place(NamedTuple):
    """Where a replica of a challenger listens, and what proves that one may ask it."""

    host: str
    port: int
    secret: bytes


Infer = Callable[[Batch, float, str | None], Awaitable[Reply]]


def _proof(secret: bytes, who: bytes, nonce: bytes) -> bytes:
    return hmac.digest(secret, who + nonce, hashlib.sha256)


class _Frames(asyncio.Protocol):
    """Cuts what comes into frames. Until the other end is known they are short."""

    _transport: asyncio.Transport

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._buffer = bytearray()
        self.known = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports, which replicas have, are no `asyncio.Transport`.
        self._transport = cast(asyncio.Transport, transport)
        asyncio.get_running_loop().call_later(CONNECT_S, self._end_unknown)

    def _end_unknown(self) -> None:
        if not self.known:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            body = start + LENGTH_BYTES
            size = int.from_bytes(self._buffer[start:body], "little")
            if size > (MOST_BYTES if self.known else UNPROVED_BYTES):
                self._transport.abort()
                return
            if len(self._buffer) - body < size:
                break
            start = body + size
            frame = bytes(self._buffer[body:start])
            if self.known:
                self.told(pickle.loads(frame))
            elif not self.proved(frame):
                self._transport.abort()
                return
        del self._buffer[:start]

    def send(self, frame: bytes) -> None:
        self._transport.write(len(frame).to_bytes(LENGTH_BYTES, "little") + frame)

    def proved(self, frame: bytes) -> bool:
        """Go on with the greeting; False: whoever that is, it is not the other end."""
        raise NotImplementedError

    def told(self, message: Any) -> None:
        """Act on a message of the other end."""
        raise NotImplementedError


class Line(_Frames):
    """The endpoint's end: many calls at once, each answered by its number."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0

    @property
    def open(self) -> bool:
        return self.known and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(self._nonce)

    def proved(self, frame: bytes) -> bool:
        nonce, proof = frame[:NONCE_BYTES], frame[NONCE_BYTES:]
        if not hmac.compare_digest(proof, _proof(self._secret, b"challenger", self._nonce)):
            return False
        self.send(_proof(self._secret, b"endpoint", nonce))
        self.known = True
        self.ready.set_result(None)
        return True

    async def ask(self, batch: Batch, timeout_s: float, traceparent: str | None) -> Reply:
        """The challenger's reply; who stops waiting cancels the call there too.

        Raises:
            ConnectionError: the line broke.
        """
        self._number += 1
        number = self._number
        call = pickle.dumps((number, batch, timeout_s, traceparent), protocol=5)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting[number] = answer
        self.send(call)
        try:
            return await answer
        except asyncio.CancelledError:
            if self.open:
                self.send(pickle.dumps((number,)))
            raise
        finally:
            del self.waiting[number]

    def told(self, message: Any) -> None:
        number, reply = message
        answer = self.waiting.get(number)
        if answer is not None and not answer.done():
            answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        lost = ConnectionError("the line to the challenger broke")
        if not self.ready.done():
            self.ready.set_exception(lost)
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(lost)

    def close(self) -> None:
        self._transport.abort()


class _Answering(_Frames):
    """The challenger's end of one line."""

    def __init__(self, secret: bytes, infer: Infer, running: set["asyncio.Task[None]"]) -> None:
        super().__init__(secret)
        self._infer = infer
        self._running = running
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._greeted = False

    def proved(self, frame: bytes) -> bool:
        if not self._greeted:
            if len(frame) != NONCE_BYTES:
                return False
            self._greeted = True
            self.send(self._nonce + _proof(self._secret, b"challenger", frame))
            return True
        proof = _proof(self._secret, b"endpoint", self._nonce)
        self.known = hmac.compare_digest(frame, proof)
        return self.known

    def told(self, message: Any) -> None:
        number = message[0]
        if len(message) == 1:
            if number in self._calls:
                self._calls[number].cancel()
            return
        task = asyncio.get_running_loop().create_task(self._answer(*message))
        self._calls[number] = task
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: self._calls.pop(number))

    async def _answer(
        self, number: int, batch: Batch, timeout_s: float, traceparent: str | None
    ) -> None:
        try:
            reply = await self._infer(batch, timeout_s, traceparent)
            if not self._transport.is_closing():
                self.send(pickle.dumps((number, reply), protocol=5))
        except Exception as error:
            # As a handle's caller sees it: the challenger did not answer.
            logger.exception("a call on a line failed")
            if not self._transport.is_closing():
                self.send(pickle.dumps((number, ("unavailable", type(error).__name__))))

    def connection_lost(self, exc: Exception | None) -> None:
        for task in list(self._calls.values()):
            task.cancel()


class Listening:
    """A challenger's replica, at the end of its lines.

    Args:
        infer: answers a call; see `ChallengerReplica.infer`.
    """

    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        self._secret = secrets.token_bytes(NONCE_BYTES)
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def place(self, host: str) -> Place:
        """Listen, on a free port of this address, and say where."""
        async with self._opening:
            if self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(
                    lambda: _Answering(self._secret, self._infer, self._running), host, 0
                )
        return Place(host, self._server.sockets[0].getsockname()[1], self._secret)

    async def close(self) -> None:
        """Take no new line, and let calls that run come to their end."""
        if self._server is not None:
            self._server.close()
        if self._running:
            await asyncio.wait(self._running, timeout=LEAVE_S)


class Lines:
    """Asks a challenger: on the line with fewest open calls, or by its handle where there is none.

    Args:
        by_handle: asks any replica, through Serve.
        where: the place of any replica, through Serve.
    """

    def __init__(self, by_handle: ChallengerClient, where: Callable[[], Awaitable[Place]]) -> None:
        self._by_handle = by_handle
        self._where = where
        self._lines: dict[Place, Line] = {}
        self._looking: asyncio.Task[None] | None = None
        self._look_s = float("-inf")
        self._problem = ""

    async def __call__(
        self, batch: Batch, timeout_s: float, traceparent: str | None
    ) -> tuple[Outputs, float]:
        open_lines = [line for line in self._lines.values() if line.open]
        self._look_for_more(bool(open_lines))
        if not open_lines:
            return await self._by_handle(batch, timeout_s, traceparent)
        line = min(open_lines, key=lambda one: len(one.waiting))
        return unpack(await line.ask(batch, timeout_s, traceparent))

    def _look_for_more(self, some: bool) -> None:
        now_s = time.monotonic()
        if now_s >= self._look_s and (self._looking is None or self._looking.done()):
            self._look_s = now_s + (LOOK_FOR_MORE_S if some else LOOK_S)
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """Find one more replica; that the handle answers meanwhile is all that a failure costs."""
        self._lines = {place: line for place, line in self._lines.items() if line.open}
        try:
            async with asyncio.timeout(CONNECT_S):
                place = await self._where()
                if place not in self._lines:
                    self._lines[place] = await connected(place)
        except Exception as error:  # noqa: BLE001 - whatever Serve or the network raise
            told = f"{type(error).__name__}: {error}"
            if told != self._problem:
                logger.warning("no line to a challenger, its handle is asked: %s", told)
            self._problem = told


async def connected(place: Place) -> Line:
    """A line to a replica, both ends known to each other.

    Raises:
        OSError: nobody is there, or somebody else.
    """
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(lambda: Line(place.secret), place.host, place.port)
    try:
        await line.ready
    except BaseException:
        line.close()
        raise
    return line
