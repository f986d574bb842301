"""How long requests wait at servers that are busy: closed forms, no simulation.

Requests arrive at random (Poisson) and wait in one line for the first of `servers` that is free,
each of which works on one at a time: the queue M/G/c. With exponential service times (M/M/c)
everything here is exact (Erlang 1917). For other service times the mean wait is that of M/M/c
times (1 + cv^2) / 2: Pollaczek and Khinchine's formula for one server, where it is exact, and Allen
and Cunneen's approximation for more (A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd
ed. 1990, section 5.3). Quantiles of the waits of those who wait are scaled by the same factor
(H. C. Tijms, A First Course in Stochastic Models, 2003, section 9.6.2), which leaves them
exponential: good in the upper tail, from which a p99 is taken, poor for a median wait, and too low
where a few requests take many times as long as the mean (cv above 1 at one server).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aios.errors import UsageError

_HALVINGS = 30
"""Of an interval: what is left of it is a billionth."""


@dataclass(frozen=True)
class Times:
    """A distribution of durations, as values in ascending order with the share of each.

    Args:
        values_s: seconds.
        shares: they sum to 1.
    """

    values_s: NDArray[np.float64]
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, values_s: "NDArray[np.float64] | list[float]") -> "Times":
        """Equal shares of what was seen, or of quantiles at equal distances."""
        ordered = np.sort(np.asarray(values_s, dtype=np.float64))
        if not ordered.size:
            raise UsageError("no duration was seen")
        return cls(ordered, np.full(ordered.size, 1.0 / ordered.size))

    @classmethod
    def counted(cls, values_s: list[float], counts: Sequence[float]) -> "Times":
        """What a histogram holds, in ascending order."""
        if not sum(counts):
            raise UsageError("no duration was seen")
        weights = np.asarray(counts, dtype=np.float64)
        return cls(np.asarray(values_s, dtype=np.float64), weights / weights.sum())

    @property
    def mean_s(self) -> float:
        return float(self.values_s @ self.shares)

    @property
    def squared_variation(self) -> float:
        """Variance over squared mean: 0 for a constant, 1 for exponential times."""
        mean_s = self.mean_s
        variance = float(((self.values_s - mean_s) ** 2) @ self.shares)
        return variance / mean_s**2 if mean_s else 0.0

    def quantile_s(self, fraction: float) -> float:
        """The smallest value that at least `fraction` do not exceed."""
        place = int(np.searchsorted(np.cumsum(self.shares), fraction - 1e-12))
        return float(self.values_s[min(place, self.values_s.size - 1)])


@dataclass(frozen=True)
class Queue:
    """One line before `servers`, with requests arriving at random.

    Args:
        rate_per_s: arrivals at all servers together.
        service_s: mean time for which a request keeps one server busy.
        variability: (1 + cv^2) / 2 of the service times, or what was fitted in its place:
            1 for exponential times, 0.5 for constant ones.

    Raises:
        UsageError: a number that no queue has.
    """

    rate_per_s: float
    service_s: float
    servers: int = 1
    variability: float = 1.0

    def __post_init__(self) -> None:
        good = all(
            math.isfinite(value) and value > 0
            for value in (self.rate_per_s, self.service_s, self.variability)
        )
        if not good or self.servers < 1:
            raise UsageError(f"rate, service time and servers are above zero, not {self}")

    @property
    def utilisation(self) -> float:
        """Share of the servers' time that is asked for; from 1 on the line grows for ever."""
        return self.rate_per_s * self.service_s / self.servers

    @property
    def waiting_fraction(self) -> float:
        """Share of requests that find all servers busy: Erlang's formula C."""
        return erlang_c(self.servers, self.rate_per_s * self.service_s)

    @property
    def mean_wait_s(self) -> float:
        return self.waiting_fraction * self._mean_of_waiting_s

    @property
    def _mean_of_waiting_s(self) -> float:
        """Mean wait of those who wait at all."""
        if self.utilisation >= 1:
            return math.inf
        return self.variability * self.service_s / (self.servers * (1 - self.utilisation))

    def wait_quantile_s(self, fraction: float) -> float:
        """The wait that `fraction` of all requests do not exceed; 0 where so many find a
        server free."""
        waiting = self.waiting_fraction
        if waiting <= 1 - fraction:
            return 0.0
        return self._mean_of_waiting_s * math.log(waiting / (1 - fraction))

    def response_quantile_s(self, fraction: float, times: Times) -> float:
        """The time from arrival to answer that `fraction` of requests do not exceed.

        Args:
            times: how long an answer takes without waiting. In a line each request's own time is
                independent of its wait, so both are added as random variables.
        """
        if self.utilisation >= 1:
            return math.inf
        waiting, mean_s = self.waiting_fraction, self._mean_of_waiting_s

        def later(than_s: float) -> float:
            """Share of requests that take longer."""
            beyond = than_s - times.values_s
            answered = np.where(beyond < 0, 1.0, 0.0) @ times.shares
            with_wait = np.exp(-np.maximum(beyond, 0.0) / mean_s) @ times.shares
            return float((1 - waiting) * answered + waiting * with_wait)

        low_s = times.quantile_s(fraction)
        high_s = float(times.values_s[-1]) + self.wait_quantile_s(fraction)
        if later(low_s) <= 1 - fraction:
            return low_s
        for _ in range(_HALVINGS):
            middle_s = (low_s + high_s) / 2
            if later(middle_s) > 1 - fraction:
                low_s = middle_s
            else:
                high_s = middle_s
        return high_s


def erlang_c(servers: int, load: float) -> float:
    """Share of requests that wait in M/M/c, by way of Erlang's B, which stays within range for
    thousands of servers.

    >>> round(erlang_c(1, 0.7), 6), round(erlang_c(2, 1.0), 6)
    (0.7, 0.333333)

    Args:
        load: arrival rate x mean service time, in servers ("erlangs"). From `servers` on
            everybody waits.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def highest_rate(
    budget_s: float,
    times: Times,
    *,
    service_s: float,
    variability: float,
    servers: int = 1,
    fraction: float = 0.99,
) -> float:
    """The largest arrival rate, per second, at which `fraction` of the answers come within
    `budget_s`; 0 where they do not even without load."""
    if times.quantile_s(fraction) > budget_s:
        return 0.0
    low, high = 0.0, servers / service_s
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        queue = Queue(middle, service_s, servers, variability)
        if queue.response_quantile_s(fraction, times) <= budget_s:
            low = middle
        else:
            high = middle
    return low


def servers_needed(
    rate_per_s: float,
    budget_s: float,
    times: Times,
    *,
    service_s: float,
    variability: float,
    fraction: float = 0.99,
) -> int | None:
    """The fewest servers at one line with which `fraction` of the answers come within
    `budget_s`; None where no number of them helps."""
    if times.quantile_s(fraction) > budget_s:
        return None

    def enough(servers: int) -> bool:
        queue = Queue(rate_per_s, service_s, servers, variability)
        return queue.response_quantile_s(fraction, times) <= budget_s

    high = max(1, math.ceil(rate_per_s * service_s))
    while not enough(high):
        high *= 2
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
