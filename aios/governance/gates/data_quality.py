"""Whether the data are fit to learn from: nulls, ranges, duplicates, leaked labels.

After E. Breck et al. (2019), "Data validation for machine learning", SysML; leakage after S.
Kaufman et al. (2012), "Leakage in data mining", ACM TKDD 6(4).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from aios.contracts import Field, Integer, Number
from aios.errors import NotEnoughEvidence
from aios.governance.candidate import Array, Candidate, Context
from aios.governance.gates.params import DataQualityParams
from aios.governance.gates.verdicts import verdict
from aios.governance.statistics import auc
from aios.records import GateResult

if TYPE_CHECKING:
    import pandas

_LEAST_LEAK_ROWS = 10
"""Rows of each class below which any column may rank them by chance."""


def judge_data_quality(
    candidate: Candidate, context: Context, params: DataQualityParams
) -> GateResult:
    """No fault in the snapshot's profile or the holdout's rows; the value is their number.

    Faults are: an input that is absent, all null, constant, null too often, null where the
    contract forbids it, or out of the contract's range too often; a label that is null or has
    one value; too many duplicate rows; and an input that alone tells the label, by rank or by
    being null.
    """
    snapshot, holdout = candidate.snapshot, candidate.holdout
    if snapshot.rows < params.min_rows:
        raise NotEnoughEvidence(
            f"the snapshot has {snapshot.rows} rows; at least {params.min_rows} are needed"
        )
    faults = _profile_faults(candidate, params)
    duplicates = snapshot.duplicate_rows / max(snapshot.rows, 1)
    if duplicates > params.max_duplicate_share:
        faults.append(
            f"{duplicates:.1%} of the rows are duplicates; at most {params.max_duplicate_share:.1%}"
        )
    outside = {
        name: _outside_share(field, holdout[name])
        for name, field in candidate.contract.inputs.items()
        if name in holdout.columns
    }
    faults += [
        f"{name} is out of the contract's range in {share:.1%} of the holdout"
        for name, share in outside.items()
        if share > params.max_out_of_range_share
    ]
    telling = _telling(candidate)
    faults += [
        f"{name} alone tells the label ({strength:.3f}, limit {params.max_single_auc:g}): is it "
        "known before the label is?"
        for name, strength in telling.items()
        if strength >= params.max_single_auc
    ]
    evidence: dict[str, Any] = {
        "rows": snapshot.rows,
        "duplicate_share": duplicates,
        "out_of_range": {name: share for name, share in outside.items() if share},
        "label_told_by": dict(sorted(telling.items(), key=lambda item: -item[1])[:10]),
        "faults": faults,
    }
    if faults:
        return verdict("data_quality", "failed", "; ".join(faults), len(faults), 0, **evidence)
    if not telling:
        reason = "too few rows, or too few of one label, to see whether an input tells the label"
        return verdict("data_quality", "not_enough_data", reason, 0, 0, **evidence)
    told = f"no fault in {snapshot.rows:,} rows of {len(snapshot.columns)} columns"
    return verdict("data_quality", "passed", told, 0, 0, **evidence)


def _profile_faults(candidate: Candidate, params: DataQualityParams) -> list[str]:
    snapshot = candidate.snapshot
    faults = []
    for name, field in candidate.contract.inputs.items():
        column = snapshot.columns.get(name)
        if column is None:
            # The recipe made it from other columns: the holdout is all that can be seen of it.
            values = candidate.holdout.get(name)
            if values is None:
                faults.append(f"{name} is not in the data")
                continue
            rows, nulls = len(values), int(values.isna().sum())
            distinct = int(values.nunique()) if not field.shape else rows
        else:
            rows, nulls, distinct = snapshot.rows, column.nulls, column.distinct
        faults += _column_faults(name, field, rows, nulls, distinct, params)
    label = snapshot.columns.get(candidate.label)
    if label is not None:
        if label.nulls:
            faults.append(f"the label {candidate.label} is null in {label.nulls} rows")
        if label.distinct < 2:
            faults.append(f"the label {candidate.label} has {label.distinct} values")
    return faults


def _column_faults(
    name: str, field: Field, rows: int, nulls: int, distinct: int, params: DataQualityParams
) -> list[str]:
    if rows and nulls == rows:
        return [f"{name} is null in all rows"]
    faults = []
    if distinct < 2:
        faults.append(f"{name} has the same value in all rows")
    if nulls and not field.nullable:
        faults.append(f"{name} is null in {nulls} rows, which the contract forbids")
    elif rows and nulls / rows > params.max_null_share:
        faults.append(
            f"{name} is null in {nulls / rows:.1%} of the rows; at most {params.max_null_share:.1%}"
        )
    return faults


def _outside_share(field: Field, values: "pandas.Series[Any]") -> float:
    import pandas

    if not isinstance(field, Number | Integer) or not len(values):
        return 0.0
    numbers = pandas.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    low, high = field.limits
    return float(np.mean((numbers < low) | (numbers > high)))


def _telling(candidate: Candidate) -> dict[str, float]:
    """How well each input alone tells the label, from 0.5 (not at all) to 1.

    binary: the AUC of its values, or for other than numbers of the label's mean per value,
    or of its being null, whichever tells most. regression: the absolute rank correlation.
    """
    labels = candidate.labels
    if candidate.kind == "binary":
        rarer = min(labels.sum(), len(labels) - labels.sum())
        if rarer < _LEAST_LEAK_ROWS:
            return {}
    elif len(labels) < _LEAST_LEAK_ROWS or np.ptp(labels) == 0:
        return {}
    return {
        name: _strength(candidate.kind, labels, candidate.holdout[name])
        for name, field in candidate.contract.inputs.items()
        if name in candidate.holdout.columns and not field.shape
    }


def _strength(kind: str, labels: Array, values: "pandas.Series[Any]") -> float:
    import pandas

    null = values.isna().to_numpy()
    if pandas.api.types.is_numeric_dtype(values) and not null.all():
        ranks = values.to_numpy(np.float64, na_value=np.nan)
        ranks = np.where(null, np.nanmedian(ranks), ranks)
    else:
        ranks = _means_of_others(labels, values)
    return max(_agreement(kind, labels, ranks), _agreement(kind, labels, null.astype(np.float64)))


def _means_of_others(labels: Array, values: "pandas.Series[Any]") -> Array:
    """The label's mean for the value, over the other half of the rows: an id tells nothing."""
    import pandas

    names = values.astype(str).to_numpy()
    half = np.arange(len(labels)) % 2 == 0
    found = np.empty(len(labels))
    for own in (half, ~half):
        means = pandas.Series(labels[~own]).groupby(names[~own]).mean()
        found[own] = pandas.Series(names[own]).map(means).fillna(labels[~own].mean())
    return found


def _agreement(kind: str, labels: Array, ranks: Array) -> float:
    if np.ptp(ranks) == 0:
        return 0.5
    if kind == "binary":
        area = auc(labels, ranks)
        return max(area, 1 - area)
    from scipy.stats import spearmanr

    return float(abs(spearmanr(labels, ranks).statistic))
