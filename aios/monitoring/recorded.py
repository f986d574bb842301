"""Answers found again in the prediction log by their request ids, and the feedback beside it."""

import heapq
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from aios.errors import StoreCorrupt, StoreUnavailable, UnknownName, UsageError
from aios.records import Record
from aios.security.keyring import Keyring, context, key_of
from aios.store.delta import DeltaLog

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.dataset import Expression

SEALED_COLUMNS = ("key", "inputs", "outputs", "values")
"""Columns that are encrypted where `sealed_with` says with what."""
SHOWN_ENDPOINTS = 20
FEEDBACK_SUFFIX = "--feedback"
"""The Delta table of an endpoint's feedback stands beside its log: at_s, request_id, values."""

logger = logging.getLogger("aios.monitoring")


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
    log_url: str,
    endpoints: Iterable[str],
    request_id: str,
    row: int = 0,
    keyring: Keyring | None = None,
) -> RecordedAnswer:
    """What was answered to one record of a request; if an id was used twice, the newest.

    The filter goes down to the table's files. Ids are random, so no file can be left out by
    its statistics: a search reads one column of the whole log, and little else.

    Args:
        log_url: folder or URL that holds one Delta table per endpoint, by its name.
        endpoints: those to look at.
        row: which record of the request, from 0.
        keyring: opens rows that are encrypted.

    Raises:
        UnknownName: no table has it, or the request has no such row; says why that may be.
        StoreUnavailable: a table is there and cannot be read.
        UsageError: the row is encrypted with a key that the keyring lacks; names it.
        StoreCorrupt: the row was changed by somebody who lacks the key.
    """
    names = sorted(set(endpoints))
    found: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for name in names:
        rows, damaged = _rows(log_url, name, [request_id])
        found += rows
        unreadable += damaged
    if not found:
        looked = ", ".join(names[:SHOWN_ENDPOINTS]) or "no endpoint, as none was ever deployed"
        raise UnknownName(
            f"no answer to request {request_id[:100]!r} is in the prediction log of {looked}; an "
            "answer is written there up to 5 s after it was given, and only the share "
            f"record_fraction of all requests is{_but(unreadable)}"
        )
    newest = max(found, key=lambda one: float(one["at_s"]))
    same = [one for one in found if one["at_s"] == newest["at_s"]]
    matching = next((one for one in same if one["row"] == row), None)
    if matching is None:
        last = max(int(one["row"]) for one in same)
        raise UnknownName(
            f"request {request_id[:100]!r} has no row {row}; its rows are 0 to {last}"
        )
    matching = opened(keyring, matching["endpoint"], matching)
    read = {name: orjson.loads(matching[name]) for name in ("inputs", "outputs")}
    matching.pop("sealed_with", None)
    return RecordedAnswer.model_validate({**matching, **read, "rows": len(same)})


def find_answers(
    log_url: str,
    endpoint: str,
    request_ids: Collection[str],
    inputs: Collection[str] = (),
    keyring: Keyring | None = None,
) -> dict[str, dict[str, Any]]:
    """What was answered to requests that the log has, by their ids: version, arm, answered_s,
    outputs, and those of the inputs that are asked for, one object for each record. Answers of a
    fallback are left out: they say nothing about the model. If an id was used twice, the newest
    counts. Files that are damaged are passed
    over, and so are rows that somebody changed: others wait for no one's repair.

    Raises:
        StoreUnavailable: a table is there and cannot be read.
        UsageError: rows are encrypted with a key that the keyring lacks; names it.
    """
    rows, unreadable = _rows(log_url, endpoint, request_ids)
    for told in unreadable:
        logger.warning("a file of the prediction log is passed over: %s", told)
    newest: dict[str, float] = {}
    for row in rows:
        newest[row["request_id"]] = max(row["at_s"], newest.get(row["request_id"], 0.0))
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda one: int(one["row"])):
        if row["degraded"] is not None or row["at_s"] != newest[row["request_id"]]:
            continue
        facts = {"version": row["version"], "arm": row["arm"], "answered_s": row["at_s"]}
        try:
            row = opened(keyring, endpoint, row, ("inputs", "outputs") if inputs else ("outputs",))
        except StoreCorrupt as error:
            logger.warning("request %.100r is passed over: %s", row["request_id"], error.message)
            continue
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
    keyring: Keyring | None = None,
) -> list[dict[str, Any]]:
    """Inputs that stable's version answered itself in a time, as objects, in order of time.

    At most `most`: drawn at random, each as likely as any other, or with `first` the earliest.
    The log is read in batches, so that memory is bounded by `most` and not by the time's traffic.
    Of private inputs there are hashes, or nothing.

    Raises:
        StoreUnavailable: the table is there and cannot be read.
        UsageError, StoreCorrupt: a row cannot be opened; see `find_answer`.
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
    kept: list[tuple[float, int, dict[str, Any]]] = []
    columns, number = ["at_s", "request_id", "row", "inputs", "sealed_with"], count()
    for batch in _batches(log_url, endpoint, columns, wanted, []):
        rows = batch.to_pylist()
        ranks = [row["at_s"] for row in rows] if first else draws.random(len(rows)).tolist()
        kept += zip(ranks, number, rows, strict=False)
        kept = heapq.nsmallest(most, kept)
    found = sorted((row for _, _, row in kept), key=lambda row: float(row["at_s"]))
    return [orjson.loads(opened(keyring, endpoint, row, ("inputs",))["inputs"]) for row in found]


def opened(
    keyring: Keyring | None,
    table: str,
    row: dict[str, Any],
    columns: Iterable[str] = SEALED_COLUMNS,
) -> dict[str, Any]:
    """A row with these columns as they were before they were encrypted, if they were.

    Args:
        table: the name of the endpoint, or of its feedback.
    """
    tag = row.get("sealed_with")
    if tag is None:
        return row
    if keyring is None:
        raise UsageError(
            f"the prediction log is encrypted with key {key_of(tag)!r}, and no keys were given"
        )
    found = {
        name: keyring.open(
            tag, row[name], context(table, row["request_id"], row.get("row", 0), name)
        ).decode()
        for name in columns
        if row.get(name) is not None
    }
    return {**row, **found}


def _but(unreadable: Sequence[str]) -> str:
    if not unreadable:
        return ""
    return f"; but {len(unreadable)} files of the log are damaged, such as {unreadable[0]}"


def write_feedback(
    log_url: str,
    endpoint: str,
    entries: Sequence[dict[str, Any]],
    keyring: Keyring | None = None,
) -> None:
    """Append feedback to the endpoint's Delta table: seq, request_id, at_s, given each. Its
    values are encrypted where the keyring encrypts.

    Writing the same again does no harm: of one request the last counts, by `seq`.

    Raises:
        StoreUnavailable: it cannot be written now.
    """
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    name = endpoint + FEEDBACK_SUFFIX
    # Later entries of one millisecond stay later.
    at_s = [entry["at_s"] + place * 1e-6 for place, entry in enumerate(entries)]
    ids = [entry["request_id"] for entry in entries]
    values = [orjson.dumps(entry["given"]) for entry in entries]
    columns = {
        "at_s": pa.array(at_s, pa.float64()),
        "seq": pa.array([entry["seq"] for entry in entries], pa.int64()),
        "request_id": pa.array(ids, pa.string()),
    }
    sealer = keyring.sealer() if keyring is not None else None
    if sealer is not None:
        values = [
            sealer.seal(value, context(name, request_id, 0, "values"))
            for value, request_id in zip(values, ids, strict=True)
        ]
        columns["sealed_with"] = pa.array([sealer.tag] * len(ids), pa.string())
    columns["values"] = pa.array(values, pa.string())
    url = f"{log_url.rstrip('/')}/{name}"
    try:
        DeltaLog(url).append(pa.table(columns))
    except (DeltaError, OSError) as error:
        raise StoreUnavailable(f"feedback cannot be written to {url} now: {error}") from None


def _rows(
    log_url: str, endpoint: str, request_ids: Collection[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows of requests in one endpoint's table, none where there is no table yet; and which
    of its files are damaged."""
    from pyarrow.dataset import field

    unreadable: list[str] = []
    wanted = field("request_id").isin(list(request_ids))
    rows = [
        {**one, "endpoint": endpoint}
        for batch in _batches(log_url, endpoint, None, wanted, unreadable)
        for one in batch.to_pylist()
    ]
    return rows, unreadable


def _batches(
    log_url: str,
    endpoint: str,
    columns: list[str] | None,
    wanted: "Expression",
    unreadable: list[str],
) -> Iterator["RecordBatch"]:
    """Rows of one endpoint's table, some thousand at a time; none where there is no table yet.
    Files that are damaged are passed over and named in `unreadable`, unless all are."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError
    from pyarrow import ArrowException

    url = f"{log_url.rstrip('/')}/{endpoint}"
    try:
        dataset = DeltaTable(url).to_pyarrow_dataset()
    except TableNotFoundError:
        return
    except (DeltaError, ArrowException, OSError) as error:
        raise StoreUnavailable(f"the prediction log at {url} cannot be read now: {error}") from None
    there = [name for name in dataset.schema.names if columns is None or name in columns]
    for file in dataset.get_fragments(filter=wanted):
        try:
            yield from file.to_batches(schema=dataset.schema, columns=there, filter=wanted)
        except (ArrowException, OSError) as error:
            unreadable.append(f"{file.path}: {error!s:.200}")
    if unreadable and len(unreadable) == len(list(dataset.get_fragments())):
        raise StoreUnavailable(f"the prediction log at {url} cannot be read now: {unreadable[0]}")
