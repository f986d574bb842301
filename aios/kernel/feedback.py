"""Feedback on its way: into the Delta table beside the log, and to the answers that it is about."""

import logging
import threading
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from aios.clock import Clock
from aios.errors import AiosError
from aios.monitoring.conditions import FAIRNESS
from aios.monitoring.judging import Numbers
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
    """Writes and joins what waits in the database. Safe to share between threads."""

    def __init__(self, observed: Observed, log: FeedbackLog, clock: Clock) -> None:
        self._observed = observed
        self._log = log
        self._clock = clock
        self._exporting = threading.Lock()
        self.problem: str | None = None

    def follow(self) -> None:
        """Write new feedback into the Delta tables, and find what it was about. A log that is
        damaged holds up no other endpoint's; `problem` says why feedback waits."""
        problem = None
        for endpoint in self._observed.endpoints_with_feedback_waiting():
            try:
                self.export(endpoint)
                self._look_for(endpoint)
            except AiosError as error:
                problem = f"feedback on {endpoint!r} waits: {error.message}"
                logger.warning("%s", problem)
        self.problem = problem

    def export(self, endpoint: str) -> None:
        """See that all feedback so far is in the endpoint's Delta table."""
        with self._exporting:
            while waiting := self._observed.feedback_to_export(endpoint):
                self._log.write_feedback(endpoint, waiting)
                self._observed.exported(waiting[-1]["seq"], endpoint)

    def _look_for(self, endpoint: str) -> None:
        waiting = self._observed.feedback_to_look_for(endpoint)
        if not waiting:
            return
        ids = {row["request_id"] for row in waiting}
        answers = self._log.find_answers(endpoint, ids, attributes(self._observed, endpoint))
        too_old_s = self._clock.now_s() - UNKNOWN_AFTER_S
        self._observed.looked_for(
            {
                row["seq"]: answers.get(row["request_id"])
                for row in waiting
                if row["request_id"] in answers or row["at_s"] < too_old_s
            }
        )


def attributes(observed: Observed, endpoint: str) -> list[str]:
    """What tells groups of people apart, for the watches of an endpoint."""
    conditions = [one for watch in observed.watches(endpoint) for one in watch.spec.conditions]
    return sorted({one.on for one in conditions if one.measure in FAIRNESS})


def paired(outcomes: Sequence[Outcome], output: str, label: str) -> tuple[Numbers, Numbers]:
    """Predicted and true numbers, shape [n] both; answers whose feedback lacks the label, or
    where one of both is no number, are left out."""
    predicted, truth = [], []
    for outcome in outcomes:
        true = _number(outcome.given.get(label))
        for outputs in outcome.outputs:
            answered = _number(outputs.get(output))
            if true is not None and answered is not None:
                predicted.append(answered)
                truth.append(true)
    return np.array(predicted, dtype=np.float64), np.array(truth, dtype=np.float64)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float) else None
