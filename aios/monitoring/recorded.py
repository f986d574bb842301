"""One answer found again in the prediction log, by its request id."""

from collections.abc import Iterable
from typing import Any

import orjson

from aios.errors import StoreUnavailable, UnknownName
from aios.records import Record

SHOWN_ENDPOINTS = 20


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
    found = [one for name in names for one in _rows(log_url, name, request_id)]
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


def _rows(log_url: str, endpoint: str, request_id: str) -> list[dict[str, Any]]:
    """All rows of a request in one endpoint's table; none where there is no table yet."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError
    from pyarrow import ArrowException
    from pyarrow.dataset import field

    url = f"{log_url.rstrip('/')}/{endpoint}"
    try:
        table = DeltaTable(url).to_pyarrow_dataset()
        rows = table.to_table(filter=field("request_id") == request_id)
    except TableNotFoundError:
        return []
    except (DeltaError, ArrowException, OSError) as error:
        raise StoreUnavailable(f"the prediction log at {url} cannot be read now: {error}") from None
    found: list[dict[str, Any]] = rows.to_pylist()
    return [{**one, "endpoint": endpoint} for one in found]
