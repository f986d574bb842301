"""Sketches: a distribution in a few kilobytes, mergeable over replicas and workers.

A thin face on the KLL sketch of Apache DataSketches (Karnin, Lang, Liberty, "Optimal
quantile approximation in streams", FOCS 2016). Replicas fill one per arm and quantity and
send its bytes; the kernel merges them and asks for quantiles and whole distribution
functions.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.errors import StoreCorrupt, UsageError

DEFAULT_K = 400
"""Rank error 0.7 % (99 % confidence) in at most about 5 KB: fine enough for a p99, small
enough to be sent every second per arm and output."""

_HEADER = struct.Struct("<4sI")
_MAGIC = b"AKL1"
_LARGEST = float(np.finfo(np.float32).max)


class Sketch:
    """The distribution of one number, of which only about 1,200 values are kept.

    Values that are not finite are left out: a caller that must know of them counts them as
    errors. Values are kept as float32. Up to `k` values nothing is lost.

    >>> sketch = Sketch()
    >>> sketch.update_many([1.0, 2.0, 3.0, 4.0])
    >>> sketch.count, sketch.quantile(0.5), sketch.cdf(3.0), sketch.rank_error
    (4, 2.0, 0.75, 0.0)

    Args:
        k: Accuracy: the rank error falls and the size grows with it. Sketches of different
            `k` can be merged; the result is as coarse as the coarser one.
    """

    def __init__(self, k: int = DEFAULT_K) -> None:
        from datasketches import kll_floats_sketch

        if not 8 <= k <= 65_535:
            raise UsageError(f"a sketch's k is between 8 and 65535, not {k}")
        self._kll: Any = kll_floats_sketch(k)

    def update_many(self, values: "NDArray[Any] | Sequence[float]") -> None:
        """Add values of any shape; what is not finite is left out."""
        array = np.asarray(values, dtype=np.float64).ravel()
        if not np.isfinite(array).all():
            array = array[np.isfinite(array)]
        if array.size:
            self._kll.update(np.clip(array, -_LARGEST, _LARGEST).astype(np.float32))
            self._forget()

    @property
    def count(self) -> int:
        """How many values were added, here and in sketches merged into this one."""
        return int(self._kll.n)

    @property
    def rank_error(self) -> float:
        """How far the rank of a quantile may be off, as a fraction; 99 % confidence.

        Zero as long as every value is still kept.
        """
        if not self._kll.is_estimation_mode():
            return 0.0
        return float(self._kll.normalized_rank_error(False))

    @property
    def min(self) -> float:
        """The smallest value, exactly; NaN when empty."""
        return float(self._kll.get_min_value()) if self.count else float("nan")

    @property
    def max(self) -> float:
        """The largest value, exactly; NaN when empty."""
        return float(self._kll.get_max_value()) if self.count else float("nan")

    def quantile(self, q: float) -> float:
        """The smallest value whose share of values at or below it is at least `q`.

        NaN when empty. `q` beyond [0, 1] gives minus or plus infinity, which is what a
        confidence bound beyond the last observation means.
        """
        if not self.count:
            return float("nan")
        if q < 0:
            return float("-inf")
        if q > 1:
            return float("inf")
        values, cumulative = self.steps
        index = int(np.searchsorted(cumulative, q - 1e-12, side="left"))
        return float(values[min(index, len(values) - 1)])

    def cdf(self, x: float) -> float:
        """The share of values at or below `x`; NaN when empty."""
        if not self.count:
            return float("nan")
        return float(self.cdf_many(np.array([x]))[0])

    def cdf_many(self, xs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of values at or below each of `xs`; all NaN when empty."""
        if not self.count:
            return np.full(len(xs), np.nan)
        values, cumulative = self.steps
        index = np.searchsorted(values, xs, side="right")
        return np.concatenate(([0.0], cumulative))[index]

    @cached_property
    def steps(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The kept values, ascending and each once, and the share of all values at or below each.

        The shares are asked for, and not added up from the weights that iterating gives: these
        are all 1 where the sketch's lowest level is empty, as it often is after a merge (seen in
        DataSketches 5.2).
        """
        if not self.count:
            return np.empty(0), np.empty(0)
        kept = (value for value, _ in self._kll)
        values = np.unique(np.fromiter(kept, np.float64, count=self._kll.num_retained))
        cumulative = np.array(self._kll.get_cdf(values.astype(np.float32), True))[:-1]
        return values, cumulative

    def merge(self, other: "Sketch") -> None:
        """Add all that `other` has seen; `other` stays as it is."""
        self._kll.merge(other._kll)
        self._forget()

    def to_bytes(self) -> bytes:
        """The sketch for the wire: a header with a checksum, then DataSketches' own form."""
        payload: bytes = self._kll.serialize()
        return _HEADER.pack(_MAGIC, zlib.crc32(payload)) + payload

    @classmethod
    def from_bytes(cls, data: bytes) -> "Sketch":
        """What `to_bytes` wrote; no bytes at all are an empty sketch.

        The checksum is looked at first, because DataSketches reads beyond the end of
        truncated input and takes the process down.

        Raises:
            StoreCorrupt: The bytes are not a whole sketch.
        """
        from datasketches import kll_floats_sketch

        sketch = cls()
        if not data:
            return sketch
        payload = data[_HEADER.size :]
        if len(data) <= _HEADER.size or _HEADER.unpack_from(data) != (_MAGIC, zlib.crc32(payload)):
            raise StoreCorrupt(
                f"{len(data)} bytes are not a whole sketch: take them from Sketch.to_bytes"
            )
        sketch._kll = kll_floats_sketch.deserialize(payload)
        return sketch

    def __reduce__(self) -> tuple[Any, ...]:
        return _sketch_of, (self.to_bytes(),)

    def _forget(self) -> None:
        self.__dict__.pop("steps", None)

    def __repr__(self) -> str:
        return f"Sketch(count={self.count}, min={self.min:.6g}, max={self.max:.6g})"


def _sketch_of(data: bytes) -> Sketch:
    """A function, as Ray would send a class method with all of its module."""
    return Sketch.from_bytes(data)


class FrequentTexts:
    """How often each text came, exactly for up to 12,000 different ones, in a bounded memory.

    Beyond that the most frequent are still found, with counts that are at most a little high: a
    thin face on the Frequent Items sketch of Apache DataSketches (Anderson et al., "A
    high-performance algorithm for identifying frequent items in data streams", IMC 2017).

    >>> texts = FrequentTexts()
    >>> texts.update({"b": 1, "a": 3})
    >>> texts.top(5)
    {'a': 3, 'b': 1}

    Args:
        log2_slots: 0.75 * 2 ** this many texts are counted exactly.
    """

    def __init__(self, log2_slots: int = 14) -> None:
        from datasketches import frequent_strings_sketch

        self._items: Any = frequent_strings_sketch(log2_slots)

    def update(self, counts: Mapping[str, int]) -> None:
        """Add what was counted elsewhere."""
        for text, count in counts.items():
            self._items.update(text, count)

    def merge(self, other: "FrequentTexts") -> None:
        """Add all that `other` has seen; `other` stays as it is."""
        self._items.merge(other._items)

    def top(self, most: int) -> dict[str, int]:
        """The most frequent texts with their counts, most frequent first."""
        from datasketches import frequent_items_error_type

        found = self._items.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES, 0)
        ranked = sorted(found, key=lambda item: (-item[1], item[0]))
        return {text: int(count) for text, count, *_ in ranked[:most]}

    def __getstate__(self) -> bytes:
        return bytes(self._items.serialize())

    def __setstate__(self, state: bytes) -> None:
        from datasketches import frequent_strings_sketch

        self._items = frequent_strings_sketch.deserialize(state)
