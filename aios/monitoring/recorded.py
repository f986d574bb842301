"""Answers found again in the prediction log by their request ids, and the feedback beside it."""

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from aios.errors import StoreUnavailable, UnknownName
from aios.records import Record

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.dataset import Expression

SHOWN_ENDPOINTS = 20
FEEDBACK_SUFFIX = "--feedback"
"""The Delta table of an endpoint's feedback stands beside its log: at_s, request_id, values."""


class RecordedAnswer(Record):
    """One record of a request as the log has it; see `serving.recorder.Recorder`.

    `rows` is how many records of this request were found.
    """

    endpoint: str
    request_id: str
    row: int
    rows: int
    at_s: float
    key: str
    version: int
    arm: str
    degraded: str | None
    latency_s: float
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def find_answer(
    log_url: str, endpoints: Iterable[str], request_id: str, row: int = 0
) -> RecordedAnswer:
    """What was answered to one record of a request; if an id was used twice, the newest.

    The filter goes down to the table's files. Ids are random, so no file can be left out by
    its statistics: a search reads one column of the whole log, and little else.

    Args:
        log_url: folder or URL that holds one Delta table per endpoint, by its name.
        endpoints: those to look at.
        row: which record of the request, from 0.

    Raises:
        UnknownName: no table has it, or the request has no such row; says why that may be.
        StoreUnavailable: a table is there and cannot be read.
    """
    names = sorted(set(endpoints))
    found = [one for name in names for one in _rows(log_url, name, [request_id])]
    if not found:
        looked = ", ".join(names[:SHOWN_ENDPOINTS]) or "no endpoint, as none was ever deployed"
        raise UnknownName(
            f"no answer to request {request_id[:100]!r} is in the prediction log of {looked}; an "
            "answer is written there up to 5 s after it was given, and only the share "
            "record_fraction of all requests is"
        )
    newest = max(found, key=lambda one: float(one["at_s"]))
    same = [one for one in found if one["at_s"] == newest["at_s"]]
    matching = next((one for one in same if one["row"] == row), None)
    if matching is None:
        last = max(int(one["row"]) for one in same)
        raise UnknownName(
            f"request {request_id[:100]!r} has no row {row}; its rows are 0 to {last}"
        )
    read = {name: orjson.loads(matching[name]) for name in ("inputs", "outputs")}
    return RecordedAnswer.model_validate({**matching, **read, "rows": len(same)})


def find_answers(
    log_url: str, endpoint: str, request_ids: Collection[str], inputs: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """What was answered to requests that the log has, by their ids: version, arm, answered_s,
    outputs, and those of the inputs that are asked for, one object for each record. Answers of a
    fallback are left out: they say nothing about the model. If an id was used twice, the newest
    counts.

    Raises:
        StoreUnavailable: a table is there and cannot be read.
    """
    rows = _rows(log_url, endpoint, request_ids)
    newest: dict[str, float] = {}
    for row in rows:
        newest[row["request_id"]] = max(row["at_s"], newest.get(row["request_id"], 0.0))
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda one: int(one["row"])):
        if row["degraded"] is not None or row["at_s"] != newest[row["request_id"]]:
            continue
        facts = {"version": row["version"], "arm": row["arm"], "answered_s": row["at_s"]}
        answer = found.setdefault(row["request_id"], {**facts, "outputs": []})
        answer["outputs"].append(orjson.loads(row["outputs"]))
        if inputs:
            asked = orjson.loads(row["inputs"])
            known = {name: asked[name] for name in inputs if name in asked}
            answer.setdefault("inputs", []).append(known)
    return found


def recorded_rows(
    log_url: str,
    endpoint: str,
    version: int,
    *,
    since_s: float = 0.0,
    until_s: float,
    most: int,
    first: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Inputs that stable's version answered itself in a time, as objects, in order of time.

    At most `most`: drawn at random, each as likely as any other, or with `first` the earliest.
    The log is read in batches, so that memory is bounded by `most` and not by the time's traffic.

    Raises:
        StoreUnavailable: the table is there and cannot be read.
    """
    from pyarrow.dataset import field

    draws = np.random.default_rng(seed)
    wanted = (
        (field("version") == version)
        & (field("arm") == "stable")
        & field("degraded").is_null()
        & (field("at_s") >= since_s)
        & (field("at_s") < until_s)
    )
    kept: list[tuple[float, float, str]] = []
    for batch in _batches(log_url, endpoint, ["at_s", "inputs"], wanted):
        times = batch.column("at_s").to_pylist()
        ranks = times if first else draws.random(len(times)).tolist()
        kept += zip(ranks, times, batch.column("inputs").to_pylist(), strict=True)
        kept = heapq.nsmallest(most, kept)
    return [orjson.loads(text) for _, _, text in sorted(kept, key=lambda one: one[1])]


def write_feedback(log_url: str, endpoint: str, entries: Sequence[dict[str, Any]]) -> None:
    """Append feedback to the endpoint's Delta table: seq, request_id, at_s, given each.

    Writing the same again does no harm: of one request the last counts.

    Raises:
        StoreUnavailable: it cannot be written now.
    """
    import pyarrow as pa
    from deltalake import write_deltalake
    from deltalake.exceptions import DeltaError

    # Later entries of one millisecond stay later.
    at_s = [entry["at_s"] + place * 1e-6 for place, entry in enumerate(entries)]
    found = pa.table(
        {
            "at_s": pa.array(at_s, pa.float64()),
            "request_id": pa.array([entry["request_id"] for entry in entries], pa.string()),
            "values": pa.array(
                [orjson.dumps(entry["given"]).decode() for entry in entries], pa.string()
            ),
        }
    )
    url = f"{log_url.rstrip('/')}/{endpoint}{FEEDBACK_SUFFIX}"
    try:
        write_deltalake(url, found, mode="append")
    except (DeltaError, OSError) as error:
        raise StoreUnavailable(f"feedback cannot be written to {url} now: {error}") from None


def _rows(log_url: str, endpoint: str, request_ids: Collection[str]) -> list[dict[str, Any]]:
    """All rows of requests in one endpoint's table; none where there is no table yet."""
    from pyarrow.dataset import field

    wanted = field("request_id").isin(list(request_ids))
    return [
        {**one, "endpoint": endpoint}
        for batch in _batches(log_url, endpoint, None, wanted)
        for one in batch.to_pylist()
    ]


def _batches(
    log_url: str, endpoint: str, columns: list[str] | None, wanted: "Expression"
) -> Iterator["RecordBatch"]:
    """Rows of one endpoint's table, some thousand at a time; none where there is no table yet."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError
    from pyarrow import ArrowException

    url = f"{log_url.rstrip('/')}/{endpoint}"
    try:
        yield from DeltaTable(url).to_pyarrow_dataset().to_batches(columns=columns, filter=wanted)
    except TableNotFoundError:
        return
    except (DeltaError, ArrowException, OSError) as error:
        raise StoreUnavailable(f"the prediction log at {url} cannot be read now: {error}") from None
