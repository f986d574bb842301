"""How good scores are: the figures of a holdout, as a whole and by group."""

from typing import TYPE_CHECKING, Any

import numpy as np

from aios.errors import UsageError
from aios.governance.candidate import Array, Kind, read_labels
from aios.governance.statistics import auc

if TYPE_CHECKING:
    import pandas

HIGHER_IS_BETTER = {
    "auc": True,
    "accuracy": True,
    "r2": True,
    "log_loss": False,
    "brier": False,
    "rmse": False,
    "mae": False,
}
"""The metrics that follow from labels and scores alone."""

LEAST_PROBABILITY = 1e-15
"""Log loss is of scores kept this far from 0 and 1, so that one sure mistake is not infinite."""


def metrics(kind: Kind, labels: Any, scores: Any, threshold: float = 0.5) -> dict[str, float]:
    """What the scores are worth on these rows.

    Args:
        kind: `binary` or `regression`.
        labels: shape (rows,).
        scores: shape (rows,), finite.
        threshold: binary: from this score on the decision is 1.

    Returns:
        binary: `auc`, `accuracy` and, where all scores lie within 0 and 1, `log_loss` and
        `brier`. regression: `rmse`, `mae` and, where labels differ, `r2`.

    Raises:
        UsageError: there are no rows, a label is null, a score is not finite, or `binary`
            labels are of one class only, so that AUC means nothing.
    """
    truth = read_labels(kind, labels)
    if kind == "binary" and len(np.unique(truth)) < 2:
        raise UsageError(
            f"all {len(truth)} labels are of one class, {truth[0]:g}, so that AUC means nothing; "
            "give rows of both"
        )
    return _figures(kind, truth, _finite(scores, len(truth)), threshold)


def metrics_by_group(
    kind: Kind,
    labels: Any,
    scores: Any,
    frame: "pandas.DataFrame",
    attributes: tuple[str, ...],
    threshold: float = 0.5,
) -> dict[str, dict[str, dict[str, float]]]:
    """`metrics` for each value of each attribute: attribute -> group -> `rows` and figures.

    A figure that a group is too small for is left out: `auc` where it has one class only.
    Rows whose attribute is null form the group `not stated`.

    Raises:
        UsageError: as `metrics`, but for the classes; or the frame lacks an attribute.
    """
    truth = read_labels(kind, labels)
    found = _finite(scores, len(truth))
    by_attribute: dict[str, dict[str, dict[str, float]]] = {}
    for attribute in attributes:
        groups = group_names(frame, attribute)
        by_attribute[attribute] = {
            name: {
                "rows": float((groups == name).sum()),
                **_figures(kind, truth[groups == name], found[groups == name], threshold),
            }
            for name in sorted(set(groups.tolist()))
        }
    return by_attribute


NOT_STATED = "not stated"


def group_names(frame: "pandas.DataFrame", attribute: str) -> Array:
    """The group of each row as text, shape (rows,): `1` for 1 and 1.0, `not stated` for null.

    Raises:
        UsageError: the frame has no such column.
    """
    if attribute not in frame.columns:
        raise UsageError(f'the data have no column "{attribute}", which is said to be protected')
    return np.array([group_name(value) for value in frame[attribute].tolist()], dtype=object)


def group_name(value: Any) -> str:
    if value is None or value != value or type(value).__name__ in ("NAType", "NaTType"):
        return NOT_STATED
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _finite(scores: Any, rows: int) -> Array:
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != (rows,):
        raise UsageError(f"the scores have shape {found.shape} for {rows} labels")
    broken = int((~np.isfinite(found)).sum())
    if broken:
        raise UsageError(f"{broken} of {rows} scores are NaN or infinite")
    return found


def _figures(kind: Kind, truth: Array, scores: Array, threshold: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    if kind == "regression":
        squared = float(np.mean((truth - scores) ** 2))
        figures["rmse"] = squared**0.5
        figures["mae"] = float(np.mean(np.abs(truth - scores)))
        if np.ptp(truth) > 0:
            figures["r2"] = 1.0 - squared / float(np.var(truth))
        return figures
    if 0 < truth.sum() < len(truth):
        figures["auc"] = auc(truth, scores)
    figures["accuracy"] = float(np.mean((scores >= threshold) == (truth == 1)))
    if scores.min() >= 0 and scores.max() <= 1:
        figures["brier"] = float(np.mean((truth - scores) ** 2))
        figures["log_loss"] = float(np.mean(log_losses(truth, scores)))
    return figures


def log_losses(truth: Array, scores: Array) -> Array:
    """The log loss of each row, shape (rows,), for labels of 0 and 1."""
    kept = np.clip(scores, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    found: Array = -np.where(truth == 1, np.log(kept), np.log1p(-kept))
    return found
