"""Why a model gave this answer: how much each feature of one row added to the score."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from aios.errors import ModelFailed, UsageError
from aios.presentation import Rows, Shown
from aios.records.base import Record

if TYPE_CHECKING:
    import pandas

Array = np.ndarray[Any, Any]
Score = Callable[["pandas.DataFrame"], Array]

_ROWS_PER_CALL = 20_000
"""Bounds the memory of one call of the model."""


class Contributions(Shown, Record):
    """What each feature added to one row's score, against rows of the background.

    `base` is the mean score of the background, and `base + sum(values.values()) == score` up
    to rounding. `errors` are the standard errors of `values`: what another draw of
    permutations and background rows would change.
    """

    score: float
    base: float
    values: dict[str, float]
    errors: dict[str, float]
    permutations: int = Field(ge=2)

    def _shown(self) -> tuple[str, Sequence[str], Rows]:
        ordered = sorted(self.values.items(), key=lambda item: -abs(item[1]))
        rows = [[name, f"{value:+.4f}", f"{self.errors[name]:.4f}"] for name, value in ordered]
        title = f"score {self.score:.4f} = {self.base:.4f} (mean of the background) + contributions"
        return title, ("feature", "contribution", "standard error"), rows


def contributions(
    score: Score,
    row: "pandas.DataFrame",
    background: "pandas.DataFrame",
    *,
    seed: int = 0,
    permutations: int = 200,
) -> Contributions:
    """Shapley values of one row's features, for any model.

    A feature's Shapley value is what setting it from a background row's value to this row's
    adds to the score, averaged over background rows and over all orders in which features
    can be set (interventional: features are set whatever goes with them in the data). It is
    estimated from random orders, each with its reverse, which makes the error smaller; every
    background row is used equally often. Exact for additive models and, as the two orders
    are each other's reverse, for those with interactions of two features.

    Source: Strumbelj and Kononenko, "Explaining prediction models and individual predictions
    with feature contributions", Knowledge and Information Systems 41 (2014), algorithm 1;
    reverse orders: Mitchell, Cooper, Frank and Holmes, "Sampling Permutations for Shapley
    Value Estimation", Journal of Machine Learning Research 23 (2022), section 3.

    Args:
        score: gives float scores of shape (rows,) for rows with the columns of `row`.
        row: one row.
        background: rows that stand for the usual, with all columns of `row`; of more than
            `permutations` rows as many are drawn.
        permutations: how many orders, at least 2, rounded up to a multiple of the background
            rows; the model scores `2 * (features - 1) + 1` rows for each.

    Raises:
        UsageError: not one row, no columns, no background, or a column is missing there.
        ModelFailed: the scores have another shape, or one is NaN or infinite.
    """
    _check(row, background, permutations)
    random = np.random.default_rng(seed)
    if len(background) > permutations:
        kept = np.sort(random.permutation(len(background))[:permutations])
        background = background.iloc[kept]
    count, features = len(background), row.shape[1]
    rounds = -(-permutations // count)
    sources = np.tile(np.arange(count), rounds)
    orders = np.argsort(random.random((len(sources), features)), axis=1)

    pool = _pool(row, background)
    ends = _scores(score, pool, np.repeat(np.arange(count + 1)[:, None], features, axis=1))
    added = np.zeros((len(sources), features))
    for each in (orders, orders[:, ::-1]):
        path = np.empty((len(sources), features + 1))
        path[:, 0], path[:, -1] = ends[sources], ends[count]
        path[:, 1:-1] = _scores(score, pool, _walk(each, sources, count)).reshape(
            len(sources), features - 1
        )
        steps = np.diff(path, axis=1)
        added += np.take_along_axis(steps, np.argsort(each, axis=1), axis=1) / 2
    errors = added.std(axis=0, ddof=1) / np.sqrt(len(sources))
    names = [str(name) for name in row.columns]
    return Contributions(
        score=float(ends[count]),
        base=float(ends[:count].mean()),
        values=dict(zip(names, added.mean(axis=0).tolist(), strict=True)),
        errors=dict(zip(names, errors.tolist(), strict=True)),
        permutations=len(sources),
    )


def _check(row: "pandas.DataFrame", background: "pandas.DataFrame", permutations: int) -> None:
    if len(row) != 1 or not len(row.columns):
        raise UsageError(f"contributions are of one row with features; got {row.shape}")
    if not len(background):
        raise UsageError("the background has no rows; give some of the training data")
    missing = [str(name) for name in row.columns if name not in background.columns]
    if missing:
        raise UsageError(f"the background lacks the columns {', '.join(missing)}")
    if permutations < 2:
        raise UsageError(f"permutations must be at least 2, not {permutations}")


def _pool(row: "pandas.DataFrame", background: "pandas.DataFrame") -> "pandas.DataFrame":
    """All values that a mixed row can have: the background's rows, and last the row."""
    import pandas

    columns = {}
    for name in row.columns:
        usual, own = background[name], row[name]
        numeric = pandas.api.types.is_numeric_dtype(usual)
        if numeric:
            # A single record's null comes as an object; a word becomes null here.
            numbers = pandas.to_numeric(own, errors="coerce")
            fits = bool((numbers.isna() == own.isna()).all())
            own = numbers
        else:
            fits = not pandas.api.types.is_numeric_dtype(own) or bool(own.isna().all())
        if not fits:
            raise UsageError(
                f"the row's {name} is of another type ({row[name].dtype}) than in the "
                f"background ({usual.dtype})"
            )
        columns[name] = pandas.concat([usual, own], ignore_index=True)
    return pandas.DataFrame(columns)


def _walk(orders: Array, sources: Array, last: int) -> Array:
    """Which row of the pool each value comes from, for all steps between start and end.

    Shape (paths * (features - 1), features).
    """
    paths, features = orders.shape
    rank = np.argsort(orders, axis=1)
    steps = np.arange(1, features)
    is_set = rank[:, None, :] < steps[None, :, None]
    picked = np.where(is_set, last, sources[:, None, None])
    return picked.reshape(paths * (features - 1), features)


def _scores(score: Score, pool: "pandas.DataFrame", picked: Array) -> Array:
    """Scores of rows put together from the pool, shape (rows,)."""
    import pandas

    found = [np.empty(0)]
    for begin in range(0, len(picked), _ROWS_PER_CALL):
        part = picked[begin : begin + _ROWS_PER_CALL]
        columns = {
            name: pool.iloc[:, at].take(part[:, at]).reset_index(drop=True)
            for at, name in enumerate(pool.columns)
        }
        scores = np.asarray(score(pandas.DataFrame(columns)), dtype=np.float64)
        if scores.shape != (len(part),):
            raise ModelFailed(f"the model gave scores of shape {scores.shape} for {len(part)} rows")
        if not np.isfinite(scores).all():
            raise ModelFailed(
                "the model gave a NaN or infinite score for a row that mixes this one's values "
                "with usual ones: its answer cannot be explained"
            )
        found.append(scores)
    return np.concatenate(found)
