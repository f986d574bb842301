"""Writes answered requests to a Delta table, in batches, from a thread of its own."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aios.contracts import Batch

if TYPE_CHECKING:
    from aios.serving.endpoint import Answer

FLUSH_S = 5.0
MOST_COMMITS = 5
MAX_BUFFERED = 50_000
MAX_BUFFERED_ROWS = 200_000
"""Requests, and rows of all of them, held in memory (1 KB for one record); beyond it the oldest
requests are dropped and counted. 50,000 are what a replica can answer between two flushes. A
replica that crashes loses at most what came in since the last flush."""

_Row = tuple[float, str, str, int, int, str, str | None, float, bytes, bytes]
"""One row of the table, in the schema's order."""


class _Waiting(NamedTuple):
    """A request of several records, encoded by the flush."""

    at_s: float
    request_id: str
    key: str
    batch: Batch
    answer: "Answer"
    latency_s: float


class Recorder:
    """Samples requests into memory; `flush` appends them to the table at `url`.

    Columns: at_s (Unix seconds), request_id, key, row, version, arm, degraded, latency_s,
    inputs and outputs (JSON objects). One row per record of a request; its key is its own where
    it has one, and else what the request was routed by.

    Args:
        url: folder or object-store URL of the Delta table, made at the first flush.
        fraction: share of requests kept, 0 to 1.
    """

    def __init__(self, url: str, fraction: float) -> None:
        self._url = url
        self.fraction = fraction
        self._buffer: deque[_Row | _Waiting] = deque()
        self._buffered_rows = 0
        self._random = random.Random()
        self._swapping = threading.Lock()
        self._flushing = threading.Lock()
        self.dropped = 0

    def add(
        self, batch: Batch, answer: "Answer", *, key: str, request_id: str, latency_s: float
    ) -> None:
        """Keep one answered request; never waits.

        A single record is encoded here: it takes 3 us, the flush need not hold the
        interpreter for it, and a plain tuple of texts costs the garbage collector nothing.
        """
        if self.fraction < 1.0 and self._random.random() >= self.fraction:
            return
        at_s = time.time()
        entry: _Row | _Waiting
        if batch.rows == 1:
            (record,) = batch.records()
            try:
                entry = _row(at_s, request_id, key, 0, record, answer, latency_s)
            except orjson.JSONEncodeError:  # no log is worth a user's request
                self.dropped += 1
                return
        else:
            entry = _Waiting(at_s, request_id, key, batch, answer, latency_s)
        with self._swapping:
            self._buffer.append(entry)
            self._buffered_rows += batch.rows
            while len(self._buffer) > MAX_BUFFERED or self._buffered_rows > MAX_BUFFERED_ROWS:
                oldest = self._buffer.popleft()
                self._buffered_rows -= oldest.batch.rows if isinstance(oldest, _Waiting) else 1
                self.dropped += 1

    def flush(self) -> int:
        """Append what is buffered and return the number of rows written.

        Call it off the event loop. When the table cannot be written the rows are counted
        as dropped and the error is raised for the caller to log.
        """
        with self._flushing:
            with self._swapping:
                entries, self._buffer, self._buffered_rows = self._buffer, deque(), 0
            if not entries:
                return 0
            try:
                return self._append(entries)
            except Exception:
                with self._swapping:
                    self.dropped += len(entries)
                raise

    def _append(self, entries: Iterable[_Row | _Waiting]) -> int:
        import pyarrow as pa
        from deltalake import write_deltalake
        from deltalake.exceptions import CommitFailedError

        rows: list[_Row] = []
        for entry in entries:
            if isinstance(entry, _Waiting):
                rows.extend(_rows(entry))
            else:
                rows.append(entry)
        schema = _schema(pa)
        columns = [
            pa.array(values, type=kind)
            for values, kind in zip(zip(*rows, strict=True), schema.types, strict=True)
        ]
        found = pa.Table.from_arrays(columns, schema=schema)
        for attempt in range(MOST_COMMITS):
            try:
                write_deltalake(self._url, found, mode="append")
                break
            except CommitFailedError:
                # Appends never conflict, but replicas that make the table at once do.
                if attempt == MOST_COMMITS - 1:
                    raise
        return len(rows)


def _rows(entry: _Waiting) -> Iterator[_Row]:
    at_s, request_id, key, batch, answer, latency_s = entry
    for row, record in enumerate(batch.records()):
        own = batch.keys[row] if batch.keys is not None else None
        yield _row(at_s, request_id, own or key, row, record, answer, latency_s)


def _row(
    at_s: float,
    request_id: str,
    key: str,
    row: int,
    record: dict[str, Any],
    answer: "Answer",
    latency_s: float,
) -> _Row:
    outputs = {name: _plain(values[row]) for name, values in answer.outputs.items()}
    return (
        at_s,
        request_id,
        key,
        row,
        answer.version,
        answer.arm,
        answer.degraded,
        latency_s,
        orjson.dumps(record, default=_plain),
        orjson.dumps(outputs),
    )


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays as plain JSON values."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _schema(pa: Any) -> Any:
    text, number = pa.string(), pa.float64()
    return pa.schema(
        [
            ("at_s", number),
            ("request_id", text),
            ("key", text),
            ("row", pa.int32()),
            ("version", pa.int32()),
            ("arm", text),
            ("degraded", text),
            ("latency_s", number),
            ("inputs", text),
            ("outputs", text),
        ]
    )
