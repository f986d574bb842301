"""How differently groups of people fare, with an upper bound on the true difference.

S. Barocas, M. Hardt, A. Narayanan, "Fairness and Machine Learning" (2023), chapter 3;
M. Hardt, E. Price, N. Srebro (2016), "Equality of opportunity in supervised learning".
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from aios.governance.candidate import Array
from aios.governance.statistics import mean_difference, share_difference

RATES = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("true_positive_rate",),
    "equalised_odds": ("true_positive_rate", "false_positive_rate"),
}
"""Which rates of two groups each metric compares; it is the largest difference among them."""

_ROWS_OF = {
    "selection_rate": "rows",
    "true_positive_rate": "positives",
    "false_positive_rate": "negatives",
}


@dataclass(frozen=True)
class Gap:
    """A rate of group `one` minus that of group `other`, with its upper bound."""

    rate: str
    one: str
    other: str
    value: float
    upper: float


@dataclass(frozen=True)
class Comparison:
    """The groups of one attribute by one metric.

    `difference` is the largest between two groups that are large enough, and `worst` the pair
    with the largest upper bound; None where fewer than two are. `groups` has for each group
    its `rows`, `positives`, `negatives` and rates (for regression `rows` and two means), and
    `too_small` tells in words why groups were left out.
    """

    difference: float | None
    worst: Gap | None
    groups: dict[str, dict[str, float | None]]
    too_small: tuple[str, ...]


def compare_decisions(
    labels: Array,
    decisions: Array,
    groups: Array,
    *,
    metric: str,
    confidence: float,
    min_group_size: int = 1,
    min_rate_rows: int = 1,
) -> Comparison:
    """How differently groups are decided on.

    The bound on the largest difference is the largest of the bounds (Newcombe's) on each
    ordered pair of groups and each rate, all at `confidence`: where all lie below a limit,
    the true largest difference does with that confidence, without a correction for their
    number (R. L. Berger, 1982, "Multiparameter hypothesis testing and acceptance sampling",
    Technometrics 24, 295-300). The rates are fairlearn's.

    Args:
        labels: 0 and 1, shape (rows,).
        decisions: 0 and 1, 1 being what people want, shape (rows,).
        groups: the group of each row as text, shape (rows,).
        metric: a key of `RATES`.
        confidence: of the upper bound.
        min_group_size: rows below which a group is not judged.
        min_rate_rows: rows below which a rate of a group is not judged.
    """
    told = _rates(labels, decisions, groups)
    too_small = []
    gaps = []
    for rate in RATES[metric]:
        rows_of = _ROWS_OF[rate]
        judged = {}
        for name, group in told.items():
            rows, own = int(group["rows"] or 0), int(group[rows_of] or 0)
            if rows < min_group_size:
                too_small.append(f"{name} has {rows} rows, fewer than {min_group_size}")
            elif own < min_rate_rows:
                label = 1 if rows_of == "positives" else 0
                which = "rows" if rows_of == "rows" else f"rows with the label {label}"
                too_small.append(f"{name} has {own} {which}, fewer than {min_rate_rows}")
            else:
                judged[name] = ((group[rate] or 0.0) * own, own)
        for one, other in permutations(judged, 2):
            found = share_difference(*judged[one], *judged[other], confidence)
            gaps.append(Gap(rate, one, other, found.value, found.upper))
    return _comparison(gaps, told, too_small)


def _rates(labels: Array, decisions: Array, groups: Array) -> dict[str, dict[str, float | None]]:
    """By group: `rows`, `positives`, `negatives` and the three rates."""
    from fairlearn.metrics import (
        MetricFrame,
        false_positive_rate,
        selection_rate,
        true_positive_rate,
    )

    # fairlearn keeps every row as Python objects: as many rows as there are different ones,
    # weighted by how often each comes, give the same rates in a thousandth of the time.
    names, group = np.unique(groups.astype(str), return_inverse=True)
    counts = np.bincount((group * 4 + labels * 2 + decisions).astype(np.int64)).astype(np.float64)
    cells = np.flatnonzero(counts)
    truth, made, weights = cells // 2 % 2, cells % 2, counts[cells]

    def true_rate(truth: Array, made: Array, sample_weight: Array) -> float:
        if not np.any(truth == 1):
            return float("nan")
        return float(true_positive_rate(truth, made, sample_weight=sample_weight, pos_label=1))

    def false_rate(truth: Array, made: Array, sample_weight: Array) -> float:
        if not np.any(truth == 0):
            return float("nan")
        return float(false_positive_rate(truth, made, sample_weight=sample_weight, pos_label=1))

    figures = {
        "rows": lambda _, __, sample_weight: float(np.sum(sample_weight)),
        "positives": lambda truth, _, sample_weight: float(np.sum(truth * sample_weight)),
        "negatives": lambda truth, _, sample_weight: float(np.sum((1 - truth) * sample_weight)),
        "selection_rate": selection_rate,
        "true_positive_rate": true_rate,
        "false_positive_rate": false_rate,
    }
    frame = MetricFrame(
        metrics=figures,
        y_true=truth,
        y_pred=made,
        sensitive_features=names[cells // 4],
        sample_params={name: {"sample_weight": weights} for name in figures},
    )
    return {
        str(name): {key: None if value != value else float(value) for key, value in row.items()}
        for name, row in frame.by_group.to_dict("index").items()
    }


def compare_values(
    labels: Array,
    scores: Array,
    groups: Array,
    *,
    metric: str,
    confidence: float,
    min_group_size: int = 2,
) -> Comparison:
    """The same for regression, in standard deviations of the label, with Welch's bound:
    `demographic_parity` compares mean scores, the other two mean errors (score - label).

    A. Agarwal, M. Dudik, Z. S. Wu (2019), "Fair regression", ICML.
    """
    unit = float(np.std(labels)) or 1.0
    values = (scores if metric == "demographic_parity" else scores - labels) / unit
    told: dict[str, dict[str, float | None]] = {}
    rate = "mean_score" if metric == "demographic_parity" else "mean_error"
    judged, too_small, gaps = [], [], []
    for name in sorted(set(groups.tolist())):
        own = groups == name
        rows = int(own.sum())
        told[name] = {
            "rows": float(rows),
            "mean_score": float(scores[own].mean()),
            "mean_error": float((scores - labels)[own].mean()),
        }
        if rows < max(min_group_size, 2):
            too_small.append(f"{name} has {rows} rows, fewer than {max(min_group_size, 2)}")
        else:
            judged.append(name)
    for one, other in permutations(judged, 2):
        found = mean_difference(values[groups == one], values[groups == other], confidence)
        gaps.append(Gap(rate, one, other, found.value, found.upper))
    return _comparison(gaps, told, too_small)


def _comparison(
    gaps: list[Gap], told: dict[str, dict[str, float | None]], too_small: list[str]
) -> Comparison:
    return Comparison(
        difference=max((gap.value for gap in gaps), default=None),
        worst=max(gaps, key=lambda gap: gap.upper, default=None),
        groups=told,
        too_small=tuple(dict.fromkeys(too_small)),
    )
