"""Writes answered requests to a Delta table, in batches, from a thread of its own."""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from aios.contracts import Batch

if TYPE_CHECKING:
    from aios.serving.endpoint import Answer

FLUSH_S = 5.0
MOST_COMMITS = 5
MAX_BUFFERED = 20_000
MAX_BUFFERED_ROWS = 200_000
"""Requests, and rows of all of them, held in memory; beyond it the oldest requests are dropped
and counted. A replica that crashes loses at most what came in since the last flush."""


class _Entry(NamedTuple):
    at_s: float
    request_id: str
    key: str
    batch: Batch
    answer: "Answer"
    latency_s: float


class Recorder:
    """Samples requests into memory; `flush` appends them to the table at `url`.

    Columns: at_s (Unix seconds), request_id, key, row, version, arm, degraded, latency_s,
    inputs and outputs (JSON objects). One row per record of a request.

    Args:
        url: folder or object-store URL of the Delta table, made at the first flush.
        fraction: share of requests kept, 0 to 1.
    """

    def __init__(self, url: str, fraction: float) -> None:
        self._url = url
        self.fraction = fraction
        self._buffer: deque[_Entry] = deque()
        self._buffered_rows = 0
        self._random = random.Random()
        self._swapping = threading.Lock()
        self._flushing = threading.Lock()
        self.dropped = 0

    def add(
        self, batch: Batch, answer: "Answer", *, key: str, request_id: str, latency_s: float
    ) -> None:
        """Keep one answered request; never waits."""
        if self.fraction < 1.0 and self._random.random() >= self.fraction:
            return
        entry = _Entry(time.time(), request_id, key, batch, answer, latency_s)
        with self._swapping:
            self._buffer.append(entry)
            self._buffered_rows += batch.rows
            while len(self._buffer) > MAX_BUFFERED or self._buffered_rows > MAX_BUFFERED_ROWS:
                self._buffered_rows -= self._buffer.popleft().batch.rows
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

    def _append(self, entries: Iterable[_Entry]) -> int:
        import pyarrow as pa
        from deltalake import write_deltalake
        from deltalake.exceptions import CommitFailedError

        rows = [row for entry in entries for row in _rows(entry)]
        found = pa.Table.from_pylist(rows, schema=_schema(pa))
        for attempt in range(MOST_COMMITS):
            try:
                write_deltalake(self._url, found, mode="append")
                break
            except CommitFailedError:
                # Appends never conflict, but replicas that make the table at once do.
                if attempt == MOST_COMMITS - 1:
                    raise
        return len(rows)


def _rows(entry: _Entry) -> list[dict[str, Any]]:
    answer = entry.answer
    return [
        {
            "at_s": entry.at_s,
            "request_id": entry.request_id,
            "key": entry.key,
            "row": row,
            "version": answer.version,
            "arm": answer.arm,
            "degraded": answer.degraded,
            "latency_s": entry.latency_s,
            "inputs": json.dumps(record, default=_plain),
            "outputs": json.dumps(
                {name: _plain(values[row]) for name, values in answer.outputs.items()}
            ),
        }
        for row, record in enumerate(entry.batch.records())
    ]


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
