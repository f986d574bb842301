"""Feedback on its way: into the Delta table beside the log, and to the answers that it is about."""

import logging
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from aios.clock import Clock
from aios.errors import AiosError
from aios.monitoring.conditions import FAIRNESS
from aios.monitoring.labelled import Labelled
from aios.records.watching import Outcome
from aios.registry import Observed

UNKNOWN_AFTER_S = 60.0
"""Feedback whose answer is not in the log after so long is on none: the log is written every
few seconds."""

logger = logging.getLogger("aios.kernel")


class FeedbackLog(Protocol):
    """The prediction log and the feedback beside it, read and written elsewhere."""

    def find_answers(
        self, endpoint: str, request_ids: Collection[str], inputs: Collection[str] = ()
    ) -> dict[str, dict[str, Any]]: ...

    def write_feedback(self, endpoint: str, entries: Sequence[dict[str, Any]]) -> None: ...


class FeedbackJoin:
    """Writes and joins what waits in the database. Safe to share between threads.

    Attributes:
        problem: why feedback waits, after the last `follow`; None if none has to.
    """

    def __init__(self, observed: Observed, log: FeedbackLog, clock: Clock) -> None:
        self._observed = observed
        self._log = log
        self._clock = clock
        self._wanted: dict[str, int] = {}
        self.problem: str | None = None

    def follow(self) -> None:
        """Write new feedback into the Delta tables, and find what it was about; a log that is
        damaged holds up no other endpoint's, and what cannot be written is looked for."""
        problems = []
        for endpoint in self._observed.endpoints_with_feedback_waiting():
            for step in (self._export, self._look_for):
                try:
                    step(endpoint)
                except AiosError as error:
                    problems.append(f"feedback on {endpoint!r} waits: {error.message}")
                    logger.warning("%s", problems[-1])
                except Exception as error:
                    told = f"unexpected {type(error).__name__}: {error!s:.300}"
                    problems.append(f"feedback on {endpoint!r} waits: {told}")
                    logger.exception("feedback on %r waits", endpoint)
        self.problem = problems[0] if problems else None

    def written(self, endpoint: str) -> bool:
        """Whether all feedback is in the endpoint's Delta table that there was when this was asked
        first, since it last was so. `follow` writes it."""
        first, last = self._observed.export_waits(endpoint)
        wanted = self._wanted.setdefault(endpoint, last)
        if first <= wanted:
            return False
        del self._wanted[endpoint]
        return True

    def _export(self, endpoint: str) -> None:
        """Write all that waits into the endpoint's Delta table."""
        while waiting := self._observed.feedback_to_export(endpoint):
            self._log.write_feedback(endpoint, waiting)
            self._observed.exported(waiting[-1]["seq"], endpoint)

    def _look_for(self, endpoint: str) -> None:
        waiting = self._observed.feedback_to_look_for(endpoint)
        if not waiting:
            return
        ids = {row["request_id"] for row in waiting}
        answers = self._log.find_answers(endpoint, ids, attributes(self._observed, endpoint))
        now_s = self._clock.now_s()
        self._observed.looked_for(
            {
                row["seq"]: answers.get(row["request_id"])
                for row in waiting
                # What was given at a time that is yet to come is old: the clock was set back.
                if row["request_id"] in answers or abs(now_s - row["at_s"]) > UNKNOWN_AFTER_S
            }
        )


def attributes(observed: Observed, endpoint: str) -> list[str]:
    """What tells groups of people apart, for the watches of an endpoint."""
    conditions = [one for watch in observed.watches(endpoint) for one in watch.spec.conditions]
    return sorted({one.on for one in conditions if one.measure in FAIRNESS})


def paired(outcomes: Sequence[Outcome], output: str, label: str) -> Labelled:
    """What was answered beside what is true, both numbers or both texts, as the newest are; what
    lacks one of them is left out."""
    found: list[tuple[int, Any, Any]] = []
    for request, outcome in enumerate(outcomes):
        true = _value(outcome.given.get(label))
        for outputs in outcome.outputs:
            answered = _value(outputs.get(output))
            if true is not None and type(answered) is type(true):
                found.append((request, answered, true))
    kind = type(found[-1][2]) if found else float
    kept = [one for one in found if type(one[2]) is kind]
    dtype = object if kind is str else np.float64
    _, requests = np.unique(np.array([one[0] for one in kept], np.intp), return_inverse=True)
    predicted, truth = (np.array([one[place] for one in kept], dtype) for place in (1, 2))
    return Labelled(predicted, truth, requests)


def _value(value: Any) -> float | str | None:
    if isinstance(value, str):
        return value
    return float(value) if isinstance(value, bool | int | float) else None
