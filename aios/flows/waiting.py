"""Many flows that wait for something elsewhere: one question per look asks for all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any


class Waiting:
    """What is waited for, by id.

    Args:
        ask: gives what has come, of the ids that are waited for.
        pause_s: between two looks, while anything is waited for.
    """

    def __init__(self, ask: Callable[[list[str]], Awaitable[dict[str, Any]]], pause_s: float):
        self._ask = ask
        self._pause_s = pause_s
        self._open: dict[str, asyncio.Future[Any]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def wait(self, wanted: str) -> Any:
        """What came under an id.

        Raises:
            Exception: whatever a look raised; who waits then is told, and may wait again.
        """
        found = self._open.get(wanted)
        if found is None:
            found = self._open[wanted] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            # A context of its own: it is no part of the flow that happened to begin it.
            self._asking = Context().run(asyncio.create_task, self._look())
        return await asyncio.shield(found)

    async def _look(self) -> None:
        while self._open:
            try:
                come = await self._ask(list(self._open))
            except Exception as error:  # noqa: BLE001 - told to all who wait
                for found in self._open.values():
                    found.set_exception(error)
                self._open.clear()
                return
            for wanted, what in come.items():
                self._open.pop(wanted).set_result(what)
            await asyncio.sleep(self._pause_s)
