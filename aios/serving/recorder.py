"""Writes answered requests to a Delta table, in batches, from a thread of its own."""

import logging
import random
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from aios.contracts import Batch
from aios.contracts.batch import Layout
from aios.serving.privacy import Privacy
from aios.serving.rows import Kind, Row, as_table
from aios.store.delta import DeltaLog

if TYPE_CHECKING:
    from aios.serving.endpoint import Answer

FLUSH_S = 5.0
MAX_BUFFERED = 50_000
MAX_BUFFERED_ROWS = 200_000
"""Requests, and rows of all of them, held in memory (1 KB for one record); beyond it the oldest
requests are dropped and counted. 50,000 are what a replica can answer between two flushes. A
replica that crashes loses at most what came in since the last flush."""
_MOST_KINDS = 64

logger = logging.getLogger("aios.serving")


class _Waiting(NamedTuple):
    """A request of several records, taken apart by the flush."""

    at_s: float
    request_id: str
    key: str
    latency_s: float
    kind: int
    batch: Batch
    answer: "Answer"


class Recorder:
    """Samples requests into memory; `flush` appends them to the table at `url`.

    Columns: at_s (Unix seconds), request_id, key, row, version, arm, degraded, latency_s,
    inputs and outputs (JSON objects). One row per record of a request; its key is its own where
    it has one, and else what the request was routed by.

    Private fields of the contract are hashed or left out. With encryption on there is a column
    `sealed_with` more, and key, inputs and outputs are encrypted; ids, times, rows, versions,
    arms, degraded and latencies stay in the clear, as searches and retention need them. Both
    happen in the flush.

    A crash loses what came in since the last flush, at most `FLUSH_S` seconds. What is lost
    otherwise is counted in `drops` by its reason: the buffer was full, a record could not be
    encoded, or the table could not be written; then `problem` says why until it can be again.

    Args:
        url: folder or object-store URL of the Delta table, made at the first flush; its last
            part is the endpoint's name.
        fraction: share of requests kept, 0 to 1.
        privacy: what may be kept of them; nothing is private by default.
    """

    def __init__(self, url: str, fraction: float, privacy: Privacy | None = None) -> None:
        self._log = DeltaLog(url)
        self._endpoint = url.rstrip("/").rpartition("/")[2]
        self.fraction = fraction
        self.privacy = privacy or Privacy()
        self._buffer: deque[Row | _Waiting] = deque()
        self._buffered_rows = 0
        self._kinds: list[Kind] = []
        self._kind_of: dict[tuple[int, tuple[str, ...]], int] = {}
        self._random = random.Random()
        self._swapping = threading.Lock()
        self._flushing = threading.Lock()
        self.drops: Counter[str] = Counter()
        self.problem: str | None = None

    @property
    def dropped(self) -> int:
        """How many requests were not recorded, for whatever reason."""
        return self.drops.total()

    def add(
        self, batch: Batch, answer: "Answer", *, key: str, request_id: str, latency_s: float
    ) -> None:
        """Keep one answered request; never waits, and encodes nothing.

        A request of one record becomes a plain tuple of plain values and arrays, which the
        garbage collector soon stops to follow: objects that live until the flush would make it
        look through the whole process every few seconds.
        """
        if self.fraction < 1.0 and self._random.random() >= self.fraction:
            return
        outputs, at_s = answer.outputs, time.time()
        with self._swapping:
            kind = self._kind(batch.layout, tuple(outputs))
            entry: Row | _Waiting
            if batch.rows == 1:
                entry = (
                    at_s,
                    request_id,
                    key,
                    0,
                    answer.version,
                    answer.arm,
                    answer.degraded,
                    latency_s,
                    kind,
                    batch.values[0],
                    tuple(outputs.values()),
                )
            else:
                entry = _Waiting(at_s, request_id, key, latency_s, kind, batch, answer)
            self._buffer.append(entry)
            self._buffered_rows += batch.rows
            while len(self._buffer) > MAX_BUFFERED or self._buffered_rows > MAX_BUFFERED_ROWS:
                oldest = self._buffer.popleft()
                self._buffered_rows -= _rows_of(oldest)
                self.drops["buffer full"] += 1

    def _kind(self, layout: Layout, outputs: tuple[str, ...]) -> int:
        """The number of a combination of inputs and outputs: numbers cost the collector nothing."""
        known = self._kind_of.get((id(layout), outputs))
        if known is None:
            self._kinds.append(Kind(layout, outputs))  # held, so no other layout gets its id
            known = self._kind_of[(id(layout), outputs)] = len(self._kinds) - 1
        return known

    def flush(self) -> int:
        """Append what is buffered and return the number of rows written.

        Call it off the event loop. When the table cannot be written the requests are counted
        as dropped and the error is raised for the caller to log; the next flush tries anew.
        """
        with self._flushing:
            with self._swapping:
                entries, self._buffer, self._buffered_rows = self._buffer, deque(), 0
                kinds = self._kinds
                if len(kinds) > _MOST_KINDS:  # of versions that are long gone
                    self._kinds, self._kind_of = [], {}
            if not entries:
                return 0
            try:
                rows = [row for entry in entries for row in _taken_apart(entry)]
                table, lost = as_table(rows, kinds, self.privacy, self._endpoint)
                if lost:
                    self.drops["not encodable"] += lost
                    logger.warning("%d records cannot be written as JSON and are dropped", lost)
                if table.num_rows:
                    self._log.append(table)
            except Exception as error:
                self.drops["not written"] += len(entries)
                self.problem = f"predictions are not recorded: {error!s:.300}"
                raise
            self.problem = None
            return int(table.num_rows)


def _rows_of(entry: "Row | _Waiting") -> int:
    return entry.batch.rows if isinstance(entry, _Waiting) else 1


def _taken_apart(entry: "Row | _Waiting") -> list[Row]:
    if not isinstance(entry, _Waiting):
        return [entry]
    at_s, request_id, key, latency_s, kind, batch, answer = entry
    own = batch.keys or [None] * batch.rows
    said = (answer.version, answer.arm, answer.degraded, latency_s, kind)
    arrays = tuple(answer.outputs.values())
    return [
        (
            at_s,
            request_id,
            own[row] or key,
            row,
            *said,
            values,
            tuple(array[row : row + 1] for array in arrays),
        )
        for row, values in enumerate(batch.values)
    ]
