"""The search for the knee: the largest rate at which the p99 stays within its budget."""

from collections.abc import Callable
from dataclasses import dataclass

from aios.capacity.load import Loop, Outcome, Stream
from aios.capacity.measurement import Point
from aios.errors import ModelFailed

LIGHT_FRACTION = 0.05
"""Of the most that is answered: hardly anybody waits."""
ENOUGH = 1000
"""Requests for a p99: ten of them lie beyond it."""
LONGEST = 4
"""A point with few requests takes at most so many times as long."""
SPREAD = (0.3, 0.55, 0.8)
"""Rates, of the most, that are measured where no rate is within the budget."""
SATURATING = 32
"""Connections of the closed loop: a replica with as many open requests is never idle."""


@dataclass(frozen=True)
class Found:
    """What the search saw: see `Measurement`."""

    full_per_s: float
    light: Point
    points: tuple[Point, ...]


def search(
    run: Callable[[Stream | Loop], Outcome],
    *,
    p99_s: float,
    seconds: float,
    steps: int,
    seed: int,
    connections: int,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Found:
    """Measure the most that is answered, a light load, and then halve the rates between.

    Arrivals are Poisson. Each point takes `seconds`, or up to four times that for 1,000 requests.

    Args:
        run: puts load on the endpoint.
        steps: rates to try; each halves what is not known.

    Raises:
        ModelFailed: nothing is answered well; says what is answered.
    """

    def at(rate_per_s: float, number: int) -> Point:
        long_s = min(max(seconds, ENOUGH / rate_per_s), LONGEST * seconds)
        on_progress(f"{rate_per_s:,.0f} requests/s for {long_s:.0f} s")
        stream = Stream("poisson", rate_per_s, long_s, seed + number, connections=connections)
        return Point.of(run(stream), "poisson", rate_per_s)

    on_progress(f"{SATURATING} connections for {seconds:.0f} s")
    full = run(Loop(SATURATING, seconds))
    if not full.good:
        raise ModelFailed(f"not one of the answers was good: {'; '.join(full.failures)}")
    full_per_s = full.good_per_s
    light = at(max(LIGHT_FRACTION * full_per_s, 1.5 / seconds), 0)
    points: list[Point] = []
    if not light.within(p99_s):
        points += [at(part * full_per_s, n + 1) for n, part in enumerate(SPREAD[:steps])]
    else:
        low, high = light.rate_per_s, full_per_s
        for number in range(steps):
            points.append(at((low + high) / 2, number + 1))
            if points[-1].within(p99_s):
                low = points[-1].rate_per_s
            else:
                high = points[-1].rate_per_s
    return Found(full_per_s, light, tuple(points))
