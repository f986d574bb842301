"""Every request by itself: what the planner's formulas are checked against.

A discrete-event simulation (`simpy`): requests arrive at random, are handed to a server, wait
there until those before them are done, and keep it busy for as long as was drawn for them.
"""

from collections.abc import Generator
from typing import Any, Literal

import numpy as np
import simpy
from numpy.typing import NDArray

Dispatch = Literal["one line", "least busy", "at random"]
"""One line for all servers; or each has a line of its own, and requests are handed to the server
with fewest requests, as HAProxy's `leastconn` does, or to any."""
WARM_UP_FRACTION = 0.1


def simulate(
    rate_per_s: float,
    service_s: "NDArray[np.float64]",
    *,
    servers: int,
    dispatch: Dispatch,
    seed: int,
) -> "NDArray[np.float64]":
    """Seconds from arrival to answer of as many requests as there are service times, in their
    order, without the first tenth: they find all servers idle."""
    random = np.random.default_rng(seed)
    world = simpy.Environment()
    lines = 1 if dispatch == "one line" else servers
    each = servers if dispatch == "one line" else 1
    resources = [simpy.Resource(world, capacity=each) for _ in range(lines)]
    gaps_s = random.exponential(1 / rate_per_s, service_s.size)
    drawn = random.integers(0, lines, service_s.size)
    took_s = np.empty(service_s.size)

    def chosen(number: int) -> simpy.Resource:
        if dispatch == "least busy":
            return min(resources, key=lambda one: one.count + len(one.queue))
        return resources[drawn[number]]

    def served(number: int) -> Generator[Any, Any, None]:
        begun_s = world.now
        with chosen(number).request() as turn:
            yield turn
            yield world.timeout(service_s[number])
        took_s[number] = world.now - begun_s

    def arriving() -> Generator[Any, Any, None]:
        for number, gap_s in enumerate(gaps_s):
            yield world.timeout(gap_s)
            world.process(served(number))

    world.process(arriving())
    world.run()
    return took_s[int(WARM_UP_FRACTION * service_s.size) :]
