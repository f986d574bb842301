"""Recorded rows beside those that a version was trained on; reads both, compares them."""

from collections.abc import Iterable, Mapping
from typing import Any

from aios.monitoring.multivariate import Rows, compare_rows
from aios.monitoring.recorded import recorded_rows
from aios.records.watching import RowComparison, RowQuestion
from aios.security.keyring import HASHED, Keyring
from aios.training.reference import MOST_CELLS, REFERENCE, REFERENCE_ROWS
from aios.training.workspace import Workspace

MOST_ROWS = 2_000
"""Recorded rows of all windows together: more would tell smaller differences apart, which nobody
retrains for."""
LEAST_OF_WINDOW = 100
LEAST_REFERENCE = 500
"""First rows of a version without training data, below which nothing is compared with them."""


def compare_recorded(
    question: RowQuestion,
    log_url: str,
    run: Workspace | None,
    baseline: Workspace,
    keyring: Keyring | None = None,
) -> RowComparison:
    """What is different in the recorded rows of some windows, all inputs together but private ones.

    Compared with the rows that the version's run kept of its training data. A version without such
    is compared with its first recorded rows, which are kept in `baseline` as soon as there are
    enough, so that they stay the same when the log is cut.

    Raises:
        StoreUnavailable: the log or a folder cannot be read now.
    """
    named = "training data"
    reference = None if run is None else run.read_json(REFERENCE)
    if reference is None:
        named, reference = "its first answers", _first_rows(question, log_url, baseline, keyring)
    if isinstance(reference, int):
        told = (
            f"{reference:,} rows of version {question.version} are recorded from before these "
            f"windows, and {LEAST_REFERENCE:,} are needed to know what is normal"
        )
        return RowComparison(why=told)
    most = min(MOST_ROWS, MOST_CELLS // max(len(reference), 1)) // len(question.blocks)
    windows = [
        _columns(
            recorded_rows(
                log_url,
                question.endpoint,
                question.version,
                since_s=block.start_s,
                until_s=block.end_s,
                most=max(most, LEAST_OF_WINDOW),
                keyring=keyring,
            )
        )
        for block in question.blocks
    ]
    return compare_rows(reference, windows).model_copy(update={"reference": named})


def _first_rows(
    question: RowQuestion, log_url: str, baseline: Workspace, keyring: Keyring | None
) -> Rows | int:
    """The first rows of the version; or how many there are, if they are too few."""
    kept: Rows | None = baseline.read_json(REFERENCE)
    if kept is not None:
        return kept
    rows = recorded_rows(
        log_url,
        question.endpoint,
        question.version,
        until_s=question.blocks[0].start_s,
        most=REFERENCE_ROWS,
        first=True,
        keyring=keyring,
    )
    if len(rows) < LEAST_REFERENCE:
        return len(rows)
    found = _columns(rows)
    baseline.write_json(REFERENCE, found)
    return found


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if not any(map(_hashed, values))}


def _hashed(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(HASHED)
