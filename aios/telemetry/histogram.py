"""How many durations fell into each of a few fixed buckets: exact, and addable."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.records import Buckets

LATENCY_BOUNDS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Of requests and of models: from an ONNX model on the event loop to a deadline of seconds."""
DELAY_BOUNDS_S = (60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0)
"""Of feedback: a click comes after a minute, a repaid loan after months."""


class Histogram:
    """Counts by bucket, with the sum of what was counted.

    A sketch of a process that has run for a month cannot tell what the last five minutes were
    like: its error is a share of the whole month. Counts can: the difference of two is exact.

    >>> seconds = Histogram((0.1, 1.0))
    >>> seconds.update_many([0.05, 0.1, 0.5, 3.0])
    >>> cumulative(seconds.buckets(), (0.1, 1.0))
    [('0.1', 2), ('1.0', 3), ('+Inf', 4)]

    Args:
        bounds: upper ends of the buckets, ascending; a value on a bound is in its bucket. One
            more bucket is for what is beyond the last.
    """

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0

    def update_many(self, values: "NDArray[Any] | Sequence[float]") -> None:
        """Count values; what is not finite is left out."""
        array = np.asarray(values, dtype=np.float64).ravel()
        array = array[np.isfinite(array)]
        places = np.searchsorted(self._bounds, array, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(array.sum())

    def grow(self, now: Buckets, before: Buckets | None) -> None:
        """Add what another histogram has counted since `before`. One whose count fell has begun
        again from zero; one with other buckets is left out."""
        gained, sum_s = np.asarray(now.counts, dtype=np.int64), now.sum_s
        if len(gained) != len(self._counts):
            return
        if before is not None and len(before.counts) == len(gained):
            earlier = np.asarray(before.counts, dtype=np.int64)
            if (gained >= earlier).all():
                gained, sum_s = gained - earlier, now.sum_s - before.sum_s
        self._counts += gained
        self._sum += max(0.0, sum_s)

    def buckets(self) -> Buckets:
        """The counts as they are now."""
        return Buckets(counts=tuple(self._counts.tolist()), sum_s=self._sum)


def cumulative(
    buckets: Buckets, bounds: Sequence[float] = LATENCY_BOUNDS_S
) -> list[tuple[str, int]]:
    """How many values were at or below each bound, as Prometheus wants them."""
    counts = buckets.counts or (0,) * (len(bounds) + 1)
    named = [*map(str, bounds), "+Inf"]
    return list(zip(named, np.cumsum(counts).tolist(), strict=True))
