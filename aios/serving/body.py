"""Reads what a caller sends: bodies, bounded in size and in time, and that he went away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from aios.errors import Malformed, PayloadTooLarge

T = TypeVar("T")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

LOOKS = 10
"""How often within its time a body is looked at."""


class CallerGone(Exception):
    """The caller closed the connection: there is nobody to answer."""


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives, which is cancelled as soon as the caller closes the connection.

    Costs a task, so only for work that takes longer than one.

    Args:
        receive: of a request whose body has been read.

    Raises:
        CallerGone: he did.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watching = asyncio.get_running_loop().create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not gone or task.uncancel() > 0:
            raise
        raise CallerGone from None
    finally:
        watching.cancel()


class BodyReader:
    """Reads bodies and gives up those that do not come.

    A timer per request (`asyncio.timeout`) would cost 10 us, more than checking a record, and
    nearly always for nothing. Here one timer looks at all who wait, so that a body is given
    up at most a tenth of its time too late.

    Args:
        patience_s: from the first wait until the body must be complete.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._begun_s: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._looking = False

    async def read(self, declared: bytes, receive: Receive, limit_bytes: int) -> bytes:
        """The whole body; stops reading as soon as it is over the limit, or late.

        Args:
            declared: the Content-Length header, empty if there is none.

        Raises:
            PayloadTooLarge: it is over `limit_bytes`.
            Malformed: it was not complete in time, or the client went away.
        """
        if declared.isdigit() and int(declared[:20]) > limit_bytes:
            raise _too_large(int(declared[:20]), limit_bytes)
        task = asyncio.current_task()
        assert task is not None
        self._begun_s[task] = time.monotonic()
        if not self._looking:
            self._look_later()
        try:
            return await _receive_all(receive, limit_bytes)
        except asyncio.CancelledError:
            if task not in self._late or task.uncancel() > 0:
                raise
            raise Malformed(
                f"the body was not complete after {self._patience_s:.0f} s; send it faster"
            ) from None
        finally:
            del self._begun_s[task]
            self._late.discard(task)

    def _look_later(self) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(self._patience_s / LOOKS, self._look)

    def _look(self) -> None:
        latest_s = time.monotonic() - self._patience_s
        for task, begun_s in self._begun_s.items():
            if begun_s <= latest_s and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._looking = False
        if self._begun_s:
            self._look_later()


async def _receive_all(receive: Receive, limit_bytes: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit_bytes:
            raise _too_large(len(body), limit_bytes)
        return body
    chunks = [body]
    size_bytes = len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the client closed the connection before the body was complete")
        chunks.append(message.get("body", b""))
        size_bytes += len(chunks[-1])
        if size_bytes > limit_bytes:
            raise _too_large(size_bytes, limit_bytes)
    return b"".join(chunks)


def _too_large(size_bytes: int, limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body has at least {size_bytes} bytes, the limit is {limit_bytes}; "
        "send fewer rows per request"
    )
