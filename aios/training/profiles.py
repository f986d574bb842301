"""What is counted of rows while they stream by; counts of pieces add up to those of all."""

import base64
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aios.records import ColumnProfile
from aios.telemetry import FrequentTexts, Sketch
from aios.training.digest import (
    Bytes,
    ContentDigest,
    Hashes,
    encode,
    moment_width,
    plain_type,
    row_bytes,
)

if TYPE_CHECKING:
    import pyarrow as pa

MOST_DISTINCT = 10_000
TOP = 50
LONGEST_TOP = 200
MOST_HASHES = 1_000_000
"""Hashes of rows kept to find duplicates, 16 MB; the count is exact up to so many rows."""

_TICKS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class Tally:
    """Everything a snapshot says of its rows, in a memory that does not grow with them.

    Picklable, so that workers count pieces and one adds them up.
    """

    def __init__(self, schema: "pa.Schema") -> None:
        self.schema = schema
        self.content = ContentDigest()
        self.columns = {entry.name: _Column(entry.type) for entry in schema}
        self._repeats = Repeats()

    @property
    def rows(self) -> int:
        return self.content.rows

    def add(self, table: "pa.Table") -> None:
        """Count some rows."""
        cells = encode(table)
        self._repeats.add(self.content.add(row_bytes(cells)))
        for name, column in self.columns.items():
            column.add(table.column(name), *cells[name])

    def merge(self, other: "Tally") -> None:
        """Add what `other` has counted."""
        self.content.merge(other.content)
        self._repeats.merge(other._repeats)
        for name, column in self.columns.items():
            column.merge(other.columns[name])

    def digest(self) -> str:
        """sha256 over the content; see `ContentDigest`."""
        return self.content.hexdigest(self.schema)

    def duplicate_rows(self) -> int:
        """How many rows are the same as an earlier one in every column."""
        return self._repeats.count()

    def profiles(self) -> dict[str, ColumnProfile]:
        """One profile for each column, in the schema's order."""
        return {name: column.profile() for name, column in self.columns.items()}


class Repeats:
    """How many of many hashes came before: exact for up to `most` different ones.

    Beyond, an estimate from a sample of hashes by their value, of which every copy is in the
    sample or none is (Gibbons, "Distinct sampling for highly-accurate answers to distinct values
    queries", VLDB 2001); the relative error is about 1 / sqrt(sampled repeats).
    """

    def __init__(self, most: int = MOST_HASHES) -> None:
        self._most = most
        self._level = 0
        self._known: Hashes = np.zeros(0, dtype=np.uint64)
        self._counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._waiting: list[tuple[Hashes, NDArray[np.int64]]] = []
        self._waiting_rows = 0

    def add(self, hashes: Hashes) -> None:
        """Count some."""
        self._wait(hashes, np.ones(len(hashes), dtype=np.int64))

    def merge(self, other: "Repeats") -> None:
        """Add what `other` has counted."""
        other._settle()
        self._settle()
        self._raise(max(self._level, other._level))
        self._wait(other._known, other._counts)

    def count(self) -> int:
        """How many were the same as an earlier one."""
        self._settle()
        return int(self._counts.sum() - len(self._known)) << self._level

    def _wait(self, hashes: Hashes, counts: NDArray[np.int64]) -> None:
        """Sorting what is known costs as much as it is long: let as much come together first."""
        if self._level:
            kept = self._sampled(hashes)
            hashes, counts = hashes[kept], counts[kept]
        self._waiting.append((hashes, counts))
        self._waiting_rows += len(hashes)
        if self._waiting_rows > max(len(self._known), 100_000):
            self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        hashes = np.concatenate([self._known, *(hashes for hashes, _ in self._waiting)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._waiting)])
        self._waiting, self._waiting_rows = [], 0
        self._known, places = np.unique(hashes, return_inverse=True)
        self._counts = np.bincount(places, counts, minlength=len(self._known)).astype(np.int64)
        while len(self._known) > self._most:
            self._raise(self._level + 1)

    def _raise(self, level: int) -> None:
        self._level = level
        kept = self._sampled(self._known)
        self._known, self._counts = self._known[kept], self._counts[kept]

    def _sampled(self, hashes: Hashes) -> NDArray[np.bool_]:
        return np.asarray((hashes & np.uint64((1 << self._level) - 1)) == 0)


class _Column:
    """One column's counts."""

    def __init__(self, kind: "pa.DataType") -> None:
        import pyarrow as pa

        self.kind = plain_type(kind)
        types = pa.types
        self.is_number = (
            types.is_integer(self.kind)
            or types.is_floating(self.kind)
            or types.is_decimal(self.kind)
        )
        self.is_spelled = types.is_string(self.kind) or types.is_boolean(self.kind)
        self.nulls = 0
        self.low: float | None = None
        self.high: float | None = None
        self.distinct: Hashes = np.zeros(0, dtype=np.uint64)
        self.sketch = Sketch()
        self.texts = FrequentTexts()

    def add(self, column: "pa.ChunkedArray", there: Bytes, cells: Bytes) -> None:
        import pyarrow.compute as pc

        self.nulls += pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0
        if len(self.distinct) < MOST_DISTINCT and cells.shape[1]:
            heads = cells[:, :8].copy().view("<u8")[there == 1, 0]
            self.distinct = _united(self.distinct, heads)
        if self.is_number or moment_width(self.kind):
            values = self._numbers(column)
            if values.size:
                self._widen(float(values.min()), float(values.max()))
            if self.is_number:
                self.sketch.update_many(values)
        elif self.is_spelled:
            self.texts.update(_counted(column))

    def merge(self, other: "_Column") -> None:
        self.nulls += other.nulls
        self.distinct = _united(self.distinct, other.distinct)
        self.sketch.merge(other.sketch)
        self.texts.merge(other.texts)
        if other.low is not None and other.high is not None:
            self._widen(other.low, other.high)

    def profile(self) -> ColumnProfile:
        sketch = base64.b64encode(self.sketch.to_bytes()).decode() if self.sketch.count else ""
        top = {text: count for text, count in self.texts.top(TOP).items() if count > 1}
        return ColumnProfile(
            dtype=str(self.kind),
            nulls=self.nulls,
            distinct=len(self.distinct),
            low=self.low,
            high=self.high,
            sketch=sketch,
            top=top,
        )

    def _numbers(self, column: "pa.ChunkedArray") -> NDArray[np.float64]:
        """Finite numbers; dates and timestamps as seconds since 1970."""
        import pyarrow as pa

        column = column.drop_null()
        scale = 1.0
        if moment_width(self.kind):
            scale = _TICKS[getattr(self.kind, "unit", "s")]
            if pa.types.is_date(self.kind):
                column, scale = column.cast(pa.timestamp("s")), 1.0
            if moment_width(column.type) == 32:
                column = column.cast(pa.int32())
            column = column.cast(pa.int64())
        values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy() / scale
        return values[np.isfinite(values)]

    def _widen(self, low: float, high: float) -> None:
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)


def _united(known: Hashes, more: Hashes) -> Hashes:
    """All of both, each once, up to `MOST_DISTINCT`. Sorting is several times as fast here as
    numpy's `unique`, which hashes."""
    both = np.sort(np.concatenate([known, more]))
    once: Hashes = both[np.diff(both, prepend=~both[:1]) != 0]
    return once[:MOST_DISTINCT]


def _counted(column: "pa.ChunkedArray") -> dict[str, int]:
    """How often each value stands in a column, by its first characters."""
    import pyarrow as pa

    counted: dict[str, int] = {}
    for entry in column.cast(pa.string()).drop_null().value_counts().to_pylist():
        text = entry["values"][:LONGEST_TOP]
        counted[text] = counted.get(text, 0) + entry["counts"]
    return counted
