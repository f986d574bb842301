"""Flows that end their workers: begun again at once, then later and later.

A step that crashes its process (a segmentation fault, `os._exit`, too much memory) takes every
other flow of that worker with it. Each is begun again; one whose worker died soon again before it
finished a step waits, as whoever is at fault does. The others finish a step meanwhile and are
begun at once from then on.
"""

import random
from collections import OrderedDict
from dataclasses import dataclass

SOON_S = 60.0
"""A worker that ran a flow for so long was not ended by its next step."""
AT_ONCE = 2
FIRST_S, LONGEST_S = 2.0, 300.0
MOST_KNOWN = 10_000


@dataclass(frozen=True)
class Crash:
    """The last of a flow's deaths, `times` of them soon and without a step in between."""

    worker: str
    steps: int | None
    times: int
    due_s: float


class Crashes:
    """When a flow whose worker died may begin again. Not thread-safe; forgets with its process."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Crash] = OrderedDict()
        self._random = random.Random()

    def last(self, flow_id: str) -> Crash | None:
        """What is known of a flow's deaths."""
        return self._known.get(flow_id)

    def died(
        self, flow_id: str, worker: str, steps: int | None, lived_s: float, now_s: float
    ) -> Crash:
        """Its worker died; told again of the same worker nothing changes.

        Args:
            steps: how many it has finished; None if it lived so long that it does not matter.
            lived_s: how long this worker had it.
        """
        last = self._known.get(flow_id)
        if last is not None and last.worker == worker:
            return last
        again = last is not None and last.steps == steps and lived_s < SOON_S
        times = last.times + 1 if last is not None and again else 1
        crash = Crash(worker, steps, times, now_s + self._pause_s(times))
        self._known[flow_id] = crash
        self._known.move_to_end(flow_id)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return crash

    def _pause_s(self, times: int) -> float:
        if times <= AT_ONCE:
            return 0.0
        # Not all of a worker's flows at the same moment: they would die together again.
        whole_s: float = min(FIRST_S * 2.0 ** (times - AT_ONCE - 1), LONGEST_S)
        return whole_s * self._random.uniform(0.5, 1.5)
