"""When requests are due: an open stream, which does not ask whether the last one was answered."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aios.errors import UsageError

Arrivals = Literal["poisson", "constant"]
"""At random, as many users who know nothing of each other come; or at equal distances."""


def schedule(
    arrivals: Arrivals, rate_per_s: float, seconds: float, seed: int
) -> "NDArray[np.int64]":
    """When each request is due, in nanoseconds from the start, in order.

    Raises:
        UsageError: a rate or duration that is none; or so short that nothing is due in it.
    """
    if not (0 < rate_per_s < 1e6 and 0 < seconds < 1e6):
        raise UsageError(f"no load of {rate_per_s:g} requests/s over {seconds:g} s can be made")
    count = round(rate_per_s * seconds)
    if not count:
        raise UsageError(f"at {rate_per_s:g} requests/s nothing is due within {seconds:g} s")
    if arrivals == "constant":
        at_s = (np.arange(count) + 0.5) / rate_per_s
    else:  # of a Poisson stream whose number is known, the times are uniform
        at_s = np.sort(np.random.default_rng(seed).uniform(0, seconds, count))
    return (at_s * 1e9).astype(np.int64)
