"""Summaries: what the values of one feature looked like, in a few kilobytes, mergeable."""

import base64
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aios.errors import StoreCorrupt, UsageError
from aios.telemetry.sketches import FrequentTexts, Sketch

Kind = Literal["number", "text"]
MOST_TEXTS = 64
"""Texts that a summary keeps by name; all others are counted together as `others`."""
TEXT_BUCKETS = 32
"""All texts are also counted by a hash: exactly, however many there are. More buckets see more, and
need more rows before chance alone does not look like a difference."""
LONGEST_TEXT = 100
SUMMARY_K = 200
"""Rank error 1.3 % (99 % confidence) in about 3 KB: a window is kept for every minute."""
_LOG2_TEXTS = 9


class Summary:
    """How often a feature came, how often it was null, and how its values were distributed.

    Memory does not grow with the number of values: a KLL sketch for numbers; for texts the most
    frequent ones by name, all of them by hash, and a HyperLogLog sketch (Flajolet et al., AofA
    2007) of how many different ones there were.

    >>> summary = Summary("number")
    >>> summary.add([1.0, 2.0, None, 4.0])
    >>> summary.count, summary.nulls, summary.sketch.quantile(0.5)
    (4, 1, 2.0)

    Attributes:
        kind: `number`, or `text` for everything that is told apart and not measured.
        count: how many values came, nulls included.
        nulls: how many of them were null or NaN.
        sketch: the numbers; empty for texts.
        buckets: how many texts fell into each of `TEXT_BUCKETS` by their hash, shape
            [TEXT_BUCKETS]; None for numbers, and for what was stored by an aios that had none.
    """

    def __init__(self, kind: Kind) -> None:
        if kind not in ("number", "text"):
            raise UsageError(f"a summary is of numbers or texts, not of {kind!r}")
        self.kind: Kind = kind
        self.count = 0
        self.nulls = 0
        self.sketch = Sketch(SUMMARY_K)
        self._texts = FrequentTexts(_LOG2_TEXTS)
        self._distinct: Any = None
        self.buckets: NDArray[np.int64] | None = None
        if kind == "text":
            self.buckets = np.zeros(TEXT_BUCKETS, np.int64)

    def add(self, values: "Sequence[Any] | NDArray[Any]") -> None:
        """Count values: numbers or None, NaN is null; or anything else, by how it is spelled."""
        if self.kind == "number":
            array = np.asarray(values, dtype=np.float64).ravel()
            self.count += array.size
            self.nulls += int(np.isnan(array).sum())
            self.sketch.update_many(array)
            return
        self.count += len(values)
        counted = _counted(values)
        self.nulls += counted.pop(None, 0)
        self._count_texts({text: n for text, n in counted.items() if text is not None})

    def _count_texts(self, counts: Mapping[str, int]) -> None:
        self._texts.update(counts)
        distinct = self._hyperloglog()
        assert self.buckets is not None
        for text, count in counts.items():
            distinct.update(text)
            self.buckets[zlib.crc32(text.encode("utf-8", "replace")) % TEXT_BUCKETS] += count

    def merge(self, other: "Summary") -> None:
        """Add all that `other` has seen; `other` stays as it is.

        Raises:
            UsageError: one is of numbers and the other of texts.
        """
        if other.kind != self.kind:
            raise UsageError(f"a summary of {other.kind}s cannot be added to one of {self.kind}s")
        self.count += other.count
        self.nulls += other.nulls
        self.sketch.merge(other.sketch)
        self._texts.merge(other._texts)
        whole = self.buckets is not None and other.buckets is not None
        self.buckets = self.buckets + other.buckets if whole else None  # type: ignore[operator]
        if other._distinct is not None:
            from datasketches import hll_union

            union = hll_union(10)
            union.update(self._hyperloglog())
            union.update(other._distinct)
            self._distinct = union.get_result()

    @property
    def present(self) -> int:
        """How many values were not null."""
        return self.count - self.nulls

    @property
    def null_share(self) -> float:
        """The share of nulls, 0 to 1; NaN when nothing came."""
        return self.nulls / self.count if self.count else math.nan

    @property
    def texts(self) -> dict[str, int]:
        """The most frequent texts with their counts, most frequent first."""
        return self._texts.top(MOST_TEXTS)

    @property
    def named(self) -> bool:
        """Whether `texts` has every text that came, each with its exact count."""
        return sum(self.texts.values()) == self.present

    @property
    def distinct(self) -> int:
        """About how many different texts came (standard error 3 %); 0 for numbers."""
        return 0 if self._distinct is None else round(self._distinct.get_estimate())

    def to_json(self) -> dict[str, Any]:
        """For a row in a database; `from_json` reads it back."""
        found: dict[str, Any] = {"kind": self.kind, "count": self.count, "nulls": self.nulls}
        if self.kind == "number":
            return found | {"sketch": _encode(self.sketch.to_bytes())}
        found["texts"] = self.texts
        if self.buckets is not None:
            found["buckets"] = self.buckets.tolist()
        if self._distinct is not None:
            found["distinct"] = _encode(self._distinct.serialize_compact())
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Summary":
        """What `to_json` wrote.

        Raises:
            StoreCorrupt: it is something else.
        """
        try:
            found = cls(value["kind"])
            found.count, found.nulls = int(value["count"]), int(value["nulls"])
            if found.kind == "number":
                found.sketch = Sketch.from_bytes(base64.b64decode(value["sketch"]))
            else:
                found._texts.update({str(text): int(n) for text, n in value["texts"].items()})
                found.buckets = _buckets(value.get("buckets"))
                if "distinct" in value:
                    from datasketches import hll_sketch

                    found._distinct = hll_sketch.deserialize(base64.b64decode(value["distinct"]))
        except (KeyError, TypeError, ValueError, RuntimeError, UsageError) as error:
            raise StoreCorrupt(f"a stored summary cannot be read: {error!r:.200}") from error
        return found

    def _hyperloglog(self) -> Any:
        if self._distinct is None:
            from datasketches import hll_sketch

            self._distinct = hll_sketch(10)
        return self._distinct

    def __repr__(self) -> str:
        return f"Summary({self.kind}, count={self.count}, nulls={self.nulls})"


def merged(parts: "Sequence[Mapping[str, Summary]]") -> dict[str, Summary]:
    """One summary for each name, over all parts. A name whose kind changed starts anew with the
    later kind: a category that became a number is another feature."""
    found: dict[str, Summary] = {}
    for part in parts:
        for name, summary in part.items():
            if name not in found or found[name].kind != summary.kind:
                found[name] = Summary(summary.kind)
            found[name].merge(summary)
    return found


def _counted(values: "Sequence[Any] | NDArray[Any]") -> Counter[str | None]:
    """How often each spelling came; None are nulls. Plain texts are counted before they are cut,
    which takes a quarter of the time; what is equal and spelled otherwise (1, True) may not be."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "OU":
        values = values.tolist()
    if not set(map(type, values)) <= {str, type(None)}:
        return Counter(map(_spelled, values))
    found: Counter[str | None] = Counter()
    for value, count in Counter(values).items():
        found[_spelled(value)] += count
    return found


def _spelled(value: Any) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)[:LONGEST_TEXT]


def _buckets(stored: Any) -> "NDArray[np.int64] | None":
    if stored is None:
        return None
    found = np.array(stored, dtype=np.int64)
    if found.shape != (TEXT_BUCKETS,):
        raise ValueError(f"{found.shape} buckets")
    return found


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
