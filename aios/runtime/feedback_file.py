"""`rt.feedback_file`: feedback in bulk, from a CSV, JSON lines or Parquet file."""

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from aios.errors import UsageError
from aios.presentation import Shown
from aios.runtime.transport import Transport

AT_ONCE = 2_000
"""Rows of one call: stored in a fifth of a second."""
AT_ONCE_BYTES = 2 * 2**20
"""The control API takes bodies of 4 MiB."""
MOST_TOLD = 1_000
"""Refused rows that a report tells of; all are counted."""
KEY = "request_id"
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None, "none": None, "nan": None}

Row = tuple[int, dict[str, Any] | str, float]
"""Line, the row or what is wrong with it, share of the file that has been read (0 to 1)."""
Progress = Callable[[float, int, int], None]


class FeedbackReport(Shown):
    """What became of a file of feedback.

    Attributes:
        rows: how many there were.
        taken: how many said something new.
        unchanged: how many said what was known.
        refused: how many could not be kept.
        problems: (line, reason) of the first 1,000 of those; in Parquet lines are rows, from 1.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.taken = self.unchanged = self.refused = 0
        self.problems: list[tuple[int, str]] = []

    @property
    def rows(self) -> int:
        return self.taken + self.unchanged + self.refused

    def refuse(self, line: int, reason: str) -> None:
        """Count a row that could not be kept."""
        self.refused += 1
        if len(self.problems) < MOST_TOLD:
            self.problems.append((line, reason))

    def _shown(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        title = (
            f"{self.file}: {self.rows:,} rows, {self.taken:,} taken, {self.unchanged:,} known "
            f"already, {self.refused:,} refused"
        )
        return title, ("line", "reason"), self.problems


def send_file(
    transport: Transport, path: str | Path, endpoint: str, on_progress: Progress | None = None
) -> FeedbackReport:
    """See `Runtime.feedback_file`."""
    report = FeedbackReport(str(path))
    waiting: list[tuple[int, dict[str, Any]]] = []
    size_bytes = 0
    for line, row, done in rows_of(Path(path)):
        found = row if isinstance(row, str) else _entry(row)
        if isinstance(found, str):
            report.refuse(line, found)
            continue
        waiting.append((line, found))
        size_bytes += len(json.dumps(found))
        if len(waiting) >= AT_ONCE or size_bytes >= AT_ONCE_BYTES:
            _send(transport, endpoint, waiting, report)
            waiting, size_bytes = [], 0
            if on_progress is not None:
                on_progress(done, report.rows, report.refused)
    if waiting:
        _send(transport, endpoint, waiting, report)
    report.problems.sort()
    if on_progress is not None:
        on_progress(1.0, report.rows, report.refused)
    return report


def _send(
    transport: Transport,
    endpoint: str,
    rows: list[tuple[int, dict[str, Any]]],
    report: FeedbackReport,
) -> None:
    body = {"answers": [entry for _, entry in rows], "partial": True}
    told = transport.change("POST", f"/api/v1/endpoints/{endpoint}/feedback", body)
    report.taken += told["taken"]
    report.unchanged += told["unchanged"]
    for problem in told["problems"]:
        report.refuse(rows[problem["place"]][0], problem["reason"])
    report.refused += told["refused"] - len(told["problems"])


def _entry(row: dict[str, Any]) -> dict[str, Any] | str:
    """A row as the API takes it, or what is wrong with it."""
    if KEY not in row or row[KEY] in (None, ""):
        return f"it has no {KEY}"
    values = {name: value for name, value in row.items() if name != KEY}
    if set(values) == {"values"} and isinstance(values["values"], dict):
        values = values["values"]
    values = {name: value for name, value in values.items() if not _missing(value)}
    if not values:
        return f"it says nothing beside its {KEY}"
    for name, value in values.items():
        if not isinstance(value, bool | int | float | str) or value in (math.inf, -math.inf):
            return f"{name} is {value!r:.60}; values are finite numbers, texts, true or false"
    return {KEY: str(row[KEY]), "values": values}


def _missing(value: Any) -> bool:
    return value is None or value != value


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file, one after the other.

    Raises:
        UsageError: it cannot be read, has no column `request_id`, or is of another kind.
    """
    kinds = {
        ".csv": _csv_rows,
        ".jsonl": _json_rows,
        ".ndjson": _json_rows,
        ".parquet": _parquet_rows,
    }
    read = kinds.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path} is none of {', '.join(kinds)}")
    try:
        with path.open("rb") as file:
            yield from read(file, max(1, path.stat().st_size))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _csv_rows(file: BinaryIO, size_bytes: int) -> Iterator[Row]:
    broken: set[int] = set()

    def lines() -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                broken.add(number)
                yield line.decode("utf-8", errors="replace")

    reader = csv.reader(lines(), strict=True)
    header = next(reader, [])
    if KEY not in header or len(set(header)) < len(header):
        raise UsageError(
            f"the first line names the columns, {KEY} among them and each once; it is "
            f"{','.join(header)[:120]!r}"
        )
    before = reader.line_num
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield before + 1, f"it is no CSV: {error}", file.tell() / size_bytes
            before = reader.line_num
            continue
        line, before = before + 1, reader.line_num
        done = file.tell() / size_bytes
        if broken & set(range(line, before + 1)):
            yield line, "it is not UTF-8", done
        elif cells and len(cells) != len(header):
            yield line, f"it has {len(cells)} cells for {len(header)} columns", done
        elif cells:
            plain = zip(header, cells, strict=True)
            yield line, {name: cell if name == KEY else _cell(cell) for name, cell in plain}, done


def _cell(text: str) -> Any:
    """A number where it is spelled as one, true, false, nothing; else the text."""
    text = text.strip()
    if text.lower() in ("", *_WORDS):
        return _WORDS.get(text.lower())
    if _NUMBER.fullmatch(text) and len(text) < 100:
        return json.loads(text)
    return text


def _json_rows(file: BinaryIO, size_bytes: int) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        done = file.tell() / size_bytes
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"it is no JSON: {error!s:.100}", done
            continue
        yield number, row if isinstance(row, dict) else f"it is no object: {row!r:.60}", done


def _parquet_rows(file: BinaryIO, size_bytes: int) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        if KEY not in table.schema_arrow.names:
            there = ", ".join(table.schema_arrow.names)
            raise UsageError(f"it has no column {KEY}; there are {there[:200]}")
        number = 0
        for batch in table.iter_batches(AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield number, row, number / table.metadata.num_rows
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(f"it is no Parquet file that can be read: {error!s:.200}") from None
