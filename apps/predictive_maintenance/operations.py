"""The person who approves stops: a stand-in, who looks at what the agent knows and says why.

Real people would walk to the machine. This one reads the agent's memory a moment after it was
asked: where the last readings are calm again it refuses. Once it is away, so that a question goes
unanswered.
"""

import threading
import time
from typing import Any, Self

import aios
from apps.predictive_maintenance.intervention import OPERATIONS

LOOK_S = 0.2
CALM = 4
"""As many of the last readings are looked at."""
CALM_AT_MOST = 1
AWAY_AFTER = 2
"""It is away when the first question comes that it would say yes to, after so many answers."""


def decide(recent: list[bool]) -> tuple[bool, str]:
    """Whether a machine is to be stopped, and why, by its last readings, newest last.

    >>> decide([True, True, True, False, False, False, False])
    (False, '0 of the last 4 readings are anomalous: it is calm again')
    """
    last = recent[-CALM:]
    of = f"{sum(last)} of the last {len(last)} readings are anomalous"
    if sum(last) <= CALM_AT_MOST:
        return False, f"{of}: it is calm again"
    return True, f"{of}: it goes on"


class Operations:
    """Answers questions in a thread of its own, under a key of its own. A context manager.

    Args:
        rt: the runtime.
        think_s: between a question and its answer.
        away: whether it leaves one question unanswered.
    """

    def __init__(self, rt: aios.Runtime, think_s: float, away: bool = True) -> None:
        made = rt.keys.add(OPERATIONS, role="operator")
        self._rt = aios.connect(rt.address, made.key)
        self._think_s = think_s
        self._away = away
        self._seen: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operations")
        self.said: dict[str, tuple[bool, str]] = {}
        self.left: list[str] = []
        self.hitches: list[str] = []
        self._failed: Exception | None = None

    def check(self) -> None:
        """Raise what ended it, if something did: then nobody answers any more."""
        if self._failed is not None:
            raise self._failed

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        self._rt.close()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                for question in self._rt.inbox():
                    self._look_at(question)
            except aios.TemporaryError as error:
                self.hitches.append(error.message)  # processes are killed; it looks again
            except Exception as error:  # noqa: BLE001  `check` raises it in the story's thread
                self._failed = error
                return

    def _look_at(self, question: Any) -> None:
        since_s = self._seen.setdefault(question.id, time.monotonic())
        if question.id in self.left or time.monotonic() < since_s + self._think_s:
            return
        machine = question.flow.rpartition("-")[0]
        recent = self._rt.agent("machine", machine).state()["recent"]
        stops, reason = decide(recent)
        if self._away and stops and not self.left and len(self.said) >= AWAY_AFTER:
            self.left.append(question.id)
            return
        try:
            self._rt.answer(question, {"stop": stops, "reason": reason})
        except aios.IllegalTransition as error:
            self.hitches.append(error.message)  # it expired meanwhile
            return
        self.said[question.flow] = (stops, reason)
