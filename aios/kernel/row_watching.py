"""Comparisons of recorded rows, which take seconds: asked for at one look, had at a later one."""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from aios.errors import AiosError
from aios.records.watching import RowComparison, RowQuestion

AT_ONCE = 2
"""Comparisons of all watches that go on at one time; each takes a core for some seconds."""

logger = logging.getLogger("aios.kernel")


@dataclass
class _Asked:
    question: RowQuestion
    thread: threading.Thread
    found: RowComparison | None = None


class RowComparisons:
    """One comparison at a time for each watch, each in a thread that waits for it.

    Nothing is stored: what a killed kernel asked for, the next one asks for again, and the same
    question has the same answer.

    Args:
        compare: carries a question out and waits, safe to call from several threads: a
            `RowQuestion` as JSON -> a `RowComparison` as JSON.
    """

    def __init__(self, compare: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._compare = compare
        self._asked: dict[str, _Asked] = {}
        self._room = threading.Semaphore(AT_ONCE)

    def ask(
        self, watch_id: str, question: RowQuestion | None
    ) -> tuple[RowQuestion, RowComparison] | None:
        """The comparison that is ready, with what was asked; None, and `question` is begun, if
        none goes on. Call it from one thread.

        What cannot be compared has the error as its `why`: the next windows are asked about anew.
        """
        asked = self._asked.get(watch_id)
        if asked is not None:
            if asked.found is None:
                return None
            del self._asked[watch_id]
            return asked.question, asked.found
        if question is not None:
            thread = threading.Thread(
                target=self._carry_out, args=(watch_id,), name=f"aios-rows-{watch_id}", daemon=True
            )
            self._asked[watch_id] = _Asked(question, thread)
            thread.start()
        return None

    def keep(self, watch_ids: Collection[str]) -> None:
        """Forget what was asked for watches that are gone."""
        for watch_id in self._asked.keys() - set(watch_ids):
            if self._asked[watch_id].found is not None:
                del self._asked[watch_id]

    def wait(self, timeout_s: float) -> None:
        """Until all that goes on is there."""
        for asked in list(self._asked.values()):
            asked.thread.join(timeout_s)

    def _carry_out(self, watch_id: str) -> None:
        asked = self._asked[watch_id]
        try:
            with self._room:
                found = self._compare(asked.question.model_dump(mode="json"))
            asked.found = RowComparison.model_validate(found)
        except AiosError as error:
            asked.found = RowComparison(why=f"rows cannot be compared now: {error.message}")
        except Exception as error:
            logger.exception("rows of watch %s could not be compared", watch_id)
            asked.found = RowComparison(why=f"unexpected {type(error).__name__}: {error!s:.300}")
