"""Copies requests to a shadow without anyone waiting for it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import numpy as np

from aios.contracts import Batch

Send = Callable[[Batch, dict[str, np.ndarray]], Awaitable[None]]


class ShadowQueue:
    """A bounded queue in front of a shadow: when full, the oldest copy is dropped.

    `workers` calls are in flight at most, so a shadow that hangs holds that many and no
    more. `send` must bound its own time and must not raise.
    """

    def __init__(self, send: Send, *, size: int = 64, workers: int = 4) -> None:
        self._send = send
        self._waiting: deque[tuple[Batch, dict[str, np.ndarray]]] = deque(maxlen=size)
        self._workers = workers
        self._running: set[asyncio.Task[None]] = set()
        self.dropped = 0

    def put(self, batch: Batch, stable: dict[str, np.ndarray]) -> None:
        """Queue a copy of a request together with stable's answer to it."""
        if len(self._waiting) == self._waiting.maxlen:
            self.dropped += 1
        self._waiting.append((batch, stable))
        if len(self._running) < self._workers:
            task = asyncio.get_running_loop().create_task(self._work())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _work(self) -> None:
        while self._waiting:
            batch, stable = self._waiting.popleft()
            await self._send(batch, stable)

    def close(self) -> None:
        self._waiting.clear()
        for task in self._running:
            task.cancel()
