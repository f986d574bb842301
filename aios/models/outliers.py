"""How unusual a record is beside the rows that a version was made of: an isolation forest.

Source: Liu, Ting, Zhou, "Isolation Forest", ICDM 2008, as scikit-learn fits it. A row that few
random cuts set apart from all others is unusual. The score is 2^(-E[depth] / c(n)): towards 1 for
an outlier, about 0.5 or less for an ordinary row.

Numbers, integers, booleans and categories count (`manifest.OutlierColumn` says how); texts and
tensors are left out. What was constant in the training rows is never cut, so that the forest says
nothing of it.
"""

import logging
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aios.contracts import Batch, Boolean, Category, Contract, Field, Integer, Number
from aios.contracts.fields import FLOAT32_MAX
from aios.errors import AiosError, ArtifactRejected
from aios.models.agreement import check_agreement
from aios.models.engine import Array
from aios.models.isolation_graph import isolation_graph
from aios.models.manifest import CategoryValue, OutlierColumn, OutlierEntry
from aios.models.onnx_engine import open_session
from aios.models.safety import check_onnx
from aios.models.sample import sample_batch
from aios.models.synthetic import synthetic_batch

LEAST_ROWS = 100
"""Fewer say little about what is ordinary; the paper's own trees are made of 256 rows each."""
QUANTILES = 201
"""Steps of half a percent."""
_TOLERANCE = 1e-5
"""32-bit sums of 100 trees differ by 2e-7; one row on another side of one cut by 1e-3."""
_DIGITS = 6
_SEED = 0
_TIMED_ROWS = 64
_TIMED_RUNS = 5
_log = logging.getLogger("aios.models")


@dataclass(frozen=True)
class FittedOutliers:
    """A forest as it is stored, and what the conversion says of it."""

    entry: OutlierEntry
    content: bytes
    notes: dict[str, Any]


@dataclass(frozen=True)
class OutlierScores:
    """`scores` from 0 to 1, and `beyond`: the share of the training rows that are less unusual;
    [rows] each."""

    scores: Array
    beyond: Array


def scored_fields(contract: Contract) -> list[str]:
    """The inputs that count."""
    counted = Number | Integer | Boolean | Category
    return [name for name, field in contract.inputs.items() if isinstance(field, counted)]


def fit_outliers(background: Any, contract: Contract) -> FittedOutliers | str:
    """A forest of these rows, or why there is none.

    A version is worth having without one, so whatever goes wrong is a reason, and no error.

    Args:
        background: Rows that the version was trained on, as `build` takes a sample; None for
            none. Of more than 10,000 the first are taken.
    """
    if background is None:
        return "no rows to learn from were given"
    if not scored_fields(contract):
        return "no input is a number, a boolean or a category"
    try:
        batch = sample_batch(background, contract)
        if batch.rows < LEAST_ROWS:
            return (
                f"{LEAST_ROWS} rows are needed to learn what is ordinary; {batch.rows} were given"
            )
        return _fit(batch, contract)
    except AiosError as error:
        return error.message[:300]
    except Exception as error:  # noqa: BLE001 - a version is worth having without
        _log.exception("no outliers will be told")
        return f"{type(error).__name__}: {str(error)[:300]}"


def _fit(batch: Batch, contract: Contract) -> FittedOutliers:
    from sklearn.ensemble import IsolationForest

    names = scored_fields(contract)
    columns = [_column(name, contract.inputs[name], batch.column(name)) for name in names]
    matrix = _encode(columns, batch)
    forest = IsolationForest(random_state=_SEED).fit(matrix)
    expected = -forest.score_samples(matrix)
    content = isolation_graph(forest)
    check_onnx(content, "the isolation forest")
    session = open_session(content, "the isolation forest", "cpu", 1)
    largest = check_agreement(
        {"outlier": expected},
        {"outlier": _run(session, matrix)},
        tolerance=_TOLERANCE,
        what="the isolation forest",
    )
    levels = np.linspace(0.0, 1.0, QUANTILES)
    quantiles = np.quantile(expected, levels).round(_DIGITS).tolist()
    left_out = [name for name in contract.inputs if name not in names]
    notes = {"rows": batch.rows, "fields": names, "left_out": left_out}
    return FittedOutliers(
        entry=OutlierEntry(columns=tuple(columns), quantiles=tuple(quantiles), rows=batch.rows),
        content=content,
        notes={**notes, "largest_difference": largest, "size_bytes": len(content)},
    )


def _column(name: str, field: Field, values: Array) -> OutlierColumn:
    if isinstance(field, Category):
        counts = Counter(_without_nan(values))
        kinds: list[CategoryValue] = [*field.values, None]
        shares = tuple((one, counts[one] / len(values)) for one in kinds if counts[one])
        return OutlierColumn(field=name, shares=shares)
    numbers = values.astype(np.float64)
    present = numbers[~np.isnan(numbers)]
    return OutlierColumn(field=name, fill=float(np.median(present)) if len(present) else 0.0)


def _without_nan(values: Array) -> list[Any]:
    """Python values with None for null, of a column of any dtype. 1.0 counts as 1, as Python has
    it: a nullable integer comes as a float."""
    return [None if value != value else value for value in values.tolist()]


def _encode(columns: Sequence[OutlierColumn], batch: Batch) -> Array:
    """The rows as the forest takes them, float32 [rows, len(columns)]. A field that the batch does
    not have, because it came by the contract of another version, is null in it."""
    matrix = np.empty((batch.rows, len(columns)), dtype=np.float64)
    known = batch.layout.index
    numbers = [place for place, one in enumerate(columns) if one.shares is None]
    there = [place for place in numbers if columns[place].field in known]
    matrix[:, numbers] = np.nan
    if there:
        names = [columns[place].field for place in there]
        matrix[:, there] = batch.matrix(names, np.float64)
    fills = np.array([one.fill for one in columns])
    for place, one in enumerate(columns):
        if one.shares is not None:
            shares = dict(one.shares)
            if one.field in known:
                values = _without_nan(batch.column(one.field))
                matrix[:, place] = [shares.get(value, 0.0) for value in values]
            else:
                matrix[:, place] = shares.get(None, 0.0)
    matrix = np.where(np.isnan(matrix), fills, matrix)
    return np.clip(matrix, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def _run(session: Any, matrix: Array) -> Array:
    scores: Array = session.run(None, {"rows": matrix})[0]
    return scores.reshape(-1).astype(np.float64)


class OutlierDetector:
    """Scores batches. Holds no state between calls, so threads may share it.

    Args:
        content: `outliers.onnx`, verified.
        entry: What the manifest says of it.
        contract: For the batches that measure how long it takes.
        ref: How errors call it.

    Raises:
        ArtifactRejected: the graph is unsafe, or does not fit its entry.
    """

    def __init__(
        self, content: bytes, entry: OutlierEntry, contract: Contract, *, ref: str
    ) -> None:
        what = f"the isolation forest of {ref}"
        check_onnx(content, what)
        self._session = open_session(content, what, "cpu", 1)
        taken = self._session.get_inputs()
        width = len(entry.columns)
        if [(one.name, one.shape[1:]) for one in taken] != [("rows", [width])]:
            raise ArtifactRejected(f"{what} does not take the {width} columns of its manifest")
        self._columns = entry.columns
        points, place = np.unique(np.asarray(entry.quantiles), return_inverse=True)
        levels = np.linspace(0.0, 1.0, len(entry.quantiles))
        # Where many rows have the same score, a row with that one is more unusual than half.
        self._levels = np.bincount(place, levels) / np.bincount(place)
        self._points = points
        one_s, many_s = (self._measured_s(contract, rows) for rows in (1, _TIMED_ROWS))
        self._row_s = max(many_s - one_s, 1e-9) / (_TIMED_ROWS - 1)
        self._call_s = one_s

    def score(self, batch: Batch) -> OutlierScores:
        """How unusual each row is."""
        # As the quantiles are rounded: 32-bit noise must not put a row beyond its equals.
        scores = _run(self._session, _encode(self._columns, batch)).round(_DIGITS)
        beyond = np.interp(scores, self._points, self._levels, left=0.0, right=1.0)
        return OutlierScores(scores, beyond)

    def seconds(self, rows: int) -> float:
        """About how long a batch of so many rows takes, as measured at load."""
        return self._call_s + rows * self._row_s

    def _measured_s(self, contract: Contract, rows: int) -> float:
        batch = synthetic_batch(contract, rows)
        self.score(batch)
        times_s = []
        for _ in range(_TIMED_RUNS):
            begin_s = time.perf_counter()
            self.score(batch)
            times_s.append(time.perf_counter() - begin_s)
        return statistics.median(times_s)
