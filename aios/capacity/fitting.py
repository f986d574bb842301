"""From a measurement to a queue: two numbers are fitted, and the error is told beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aios.capacity.measurement import Measurement, Point
from aios.capacity.queueing import Queue, Times, highest_rate

_VARIABILITIES = np.geomspace(0.1, 30, 40)
"""Tried for the best: 0.5 are constant service times, 1 exponential ones; more than that also
stands for whatever else makes busy servers slow (two processes on one core, a collector)."""
_HEADROOM = 1.02
"""Of a rate that was borne: the server can do more than that."""


@dataclass(frozen=True)
class Fitted:
    """An endpoint's replica as a queue.

    Attributes:
        times: how long an answer takes when nobody waits.
        service_s: for how long a request keeps the replica from others: one over the most that it
            answers in a second. Shorter than an answer's time, most of which is spent elsewhere.
        variability: see `Queue`; the one that explains the measured p99s best.
        error_fraction: by how much the p99 of a point differs, at worst, from what the other
            points predict; None if there are too few.
        usual_error_fraction: the median of the same.
    """

    times: Times
    service_s: float
    variability: float
    error_fraction: float | None
    usual_error_fraction: float | None

    def p99_s(self, rate_per_s: float, servers: int = 1) -> float:
        """Predicted for one line before so many replicas; infinite from where they are full."""
        queue = Queue(rate_per_s, self.service_s, servers, self.variability)
        return queue.response_quantile_s(0.99, self.times)

    def highest_rate(self, p99_s: float) -> float:
        """Of one replica with a line of its own, by the formula."""
        return highest_rate(
            p99_s, self.times, service_s=self.service_s, variability=self.variability
        )


def fitted(measured: Measurement) -> Fitted:
    """The queue that explains a measurement best.

    Points that failed or exceed what the server can do tell nothing about waiting and are left
    out; those that the generator held back too, if there are others.
    """
    borne = [point.good_per_s for point in measured.points if point.within(measured.p99_s)]
    full_per_s = max([measured.full_per_s, *(_HEADROOM * rate for rate in borne)])
    service_s, times = measured.replicas / full_per_s, measured.light.times()
    usable = [
        point
        for point in measured.points
        if point.p99_s is not None and point.rate_per_s < full_per_s
    ]
    sound = [point for point in usable if point.held_back is None]
    usable = sound if len(sound) > 1 else usable
    predicted = _predictions(usable, times, service_s, measured.replicas)
    known = np.array([point.p99_s for point in usable])
    faults = np.log(predicted / known) ** 2 if usable else predicted
    if not usable:
        variability = (1 + times.squared_variation) / 2
        return Fitted(times, service_s, variability, None, None)
    best = int(np.argmin(faults.sum(axis=1)))
    errors = []
    for left_out in range(len(usable) if len(usable) > 1 else 0):
        others = np.delete(faults, left_out, axis=1)
        chosen = int(np.argmin(others.sum(axis=1)))
        errors.append(abs(predicted[chosen, left_out] / known[left_out] - 1))
    return Fitted(
        times=times,
        service_s=service_s,
        variability=float(_VARIABILITIES[best]),
        error_fraction=float(max(errors)) if errors else None,
        usual_error_fraction=float(np.median(errors)) if errors else None,
    )


def _predictions(
    points: Sequence[Point], times: Times, service_s: float, servers: int
) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """The p99 of each variability (rows) and point (columns)."""
    found = np.empty((len(_VARIABILITIES), len(points)))
    for column, point in enumerate(points):
        for row, variability in enumerate(_VARIABILITIES):
            queue = Queue(point.rate_per_s, service_s, servers, float(variability))
            found[row, column] = queue.response_quantile_s(0.99, times)
    return found


def rate_of_one_replica(measured: Measurement, fit: Fitted, p99_s: float) -> float:
    """What one replica bears within a budget, per second: by the formula, where that lies between
    the largest rate that was seen to go well and the smallest that went wrong; else the former. 0
    if no rate is within it."""
    if measured.light.p99_s is None or measured.light.p99_s > p99_s:
        return 0.0
    kept, broken = measured.bounds(p99_s)
    least = (kept or 0.0) / measured.replicas
    most = math.inf if broken is None else broken / measured.replicas
    by_formula = fit.highest_rate(p99_s)
    return by_formula if least < by_formula < most else least


def expected_p99_s(
    measured: Measurement, fit: Fitted, rate_per_s: float, servers: int = 1
) -> float:
    """Of one line before so many replicas: by the formula, but not more than was seen with this or
    more load for each, and never less than without load: that a busier replica is quicker is
    noise."""
    seen = [
        point.p99_s
        for point in (measured.light, *measured.points)
        if point.p99_s is not None and point.rate_per_s * servers >= rate_per_s * measured.replicas
    ]
    least_s = measured.light.p99_s or 0.0
    return max(least_s, min([fit.p99_s(rate_per_s, servers), *seen]))
