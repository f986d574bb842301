"""Whether people of all groups fare alike."""

from dataclasses import asdict
from typing import Any

import numpy as np

from aios.errors import NotEnoughEvidence
from aios.governance.candidate import Array, Candidate, Context
from aios.governance.fairness import Comparison, compare_decisions, compare_values
from aios.governance.gates.params import FairnessMetric, FairnessParams
from aios.governance.gates.verdicts import judged_rows, verdict
from aios.governance.measures import NOT_STATED, group_names
from aios.records import GateResult

MOST_GROUPS = 20
"""More values than this are a measured number, such as an age, that nobody sorted into groups."""
MOST_NOT_STATED = 0.2
"""Where more people than this left an attribute open, those who answered may not stand for all."""


def judge_fairness(candidate: Candidate, context: Context, params: FairnessParams) -> GateResult:
    """The largest difference between two groups, by each metric and protected attribute, must
    lie below `max` with `confidence`; see `aios.governance.fairness`.

    Failed: an upper bound is above the limit. Not enough data: else, a group or a rate has too
    few rows, an attribute has one group only, or more groups or more rows that do not state it
    than can be judged. Rows that do not state an attribute are left out of its comparison.
    """
    judged_rows(candidate)
    if not candidate.protected:
        raise NotEnoughEvidence(
            "no protected attribute is named, so that nothing can be compared; name the columns "
            "in the recipe's `protected`"
        )
    _refuse_one_decision(candidate, params.decision_threshold)
    compared: dict[str, dict[str, Comparison]] = {}
    doubts: list[str] = []
    for attribute in candidate.protected:
        groups = group_names(candidate.holdout, attribute)
        doubt = _unfit(attribute, groups)
        if doubt:
            doubts.append(doubt)
            continue
        compared[attribute] = {
            metric: _compare(candidate, params, groups, metric) for metric in params.metrics
        }
    return _verdict(compared, doubts, params)


def _refuse_one_decision(candidate: Candidate, threshold: float) -> None:
    """Where everybody gets the same answer all groups fare alike, whatever the scores are."""
    scores = candidate.scores
    if candidate.kind == "binary" and len({*(scores >= threshold).tolist()}) < 2:
        raise NotEnoughEvidence(
            f"every row gets the same answer at the threshold {threshold:g} (scores are "
            f"{scores.min():.3g} to {scores.max():.3g}), so that no difference could show: set the "
            "gate's decision_threshold in the policy to the one that is used"
        )


def _unfit(attribute: str, groups: Array) -> str | None:
    names = set(groups.tolist()) - {NOT_STATED}
    unstated = float(np.mean(groups == NOT_STATED))
    if len(names) > MOST_GROUPS:
        return (
            f"{attribute} has {len(names)} values; sort them into at most {MOST_GROUPS} groups in "
            "the data"
        )
    if unstated > MOST_NOT_STATED:
        return f"{attribute} is not stated in {unstated:.0%} of the rows"
    if len(names) < 2:
        return f"{attribute} has one group only ({', '.join(names)})"
    return None


def _compare(
    candidate: Candidate,
    params: FairnessParams,
    groups: Array,
    metric: FairnessMetric,
) -> Comparison:
    stated = groups != NOT_STATED
    labels, scores, groups = candidate.labels[stated], candidate.scores[stated], groups[stated]
    if candidate.kind == "regression":
        return compare_values(
            labels,
            scores,
            groups,
            metric=metric,
            confidence=params.confidence,
            min_group_size=params.min_group_size,
        )
    decisions = (scores >= params.decision_threshold).astype(np.float64)
    if params.favourable == 0:
        labels, decisions = 1 - labels, 1 - decisions
    return compare_decisions(
        labels,
        decisions,
        groups,
        metric=metric,
        confidence=params.confidence,
        min_group_size=params.min_group_size,
        min_rate_rows=params.min_rate_rows,
    )


def _verdict(
    compared: dict[str, dict[str, Comparison]], doubts: list[str], params: FairnessParams
) -> GateResult:
    found = [
        (attribute, metric, comparison)
        for attribute, by_metric in compared.items()
        for metric, comparison in by_metric.items()
    ]
    doubts += [f"{name}: group {reason}" for name, _, one in found for reason in one.too_small]
    doubts = list(dict.fromkeys(doubts))
    evidence: dict[str, Any] = {
        "confidence": params.confidence,
        "favourable": params.favourable,
        "decision_threshold": params.decision_threshold,
        "method": "largest upper bound over pairs of groups; Newcombe (shares), Welch (means)",
        "attributes": {
            attribute: {metric: asdict(one) for metric, one in by_metric.items()}
            for attribute, by_metric in compared.items()
        },
        "not_judged": doubts,
    }
    bounds = [(one.worst, attribute, metric) for attribute, metric, one in found if one.worst]
    if not bounds:
        reason = "; ".join(doubts)
        return verdict("fairness", "not_enough_data", reason, None, params.max, **evidence)
    worst, attribute, metric = max(bounds, key=lambda bound: bound[0].upper)
    upper = worst.upper
    told = (
        f"{metric.replace('_', ' ')} difference by {attribute} is {worst.value:.3f} and may be "
        f"{upper:.3f} (groups {worst.one} and {worst.other})"
    )
    if upper > params.max:
        reason = f"{told}; the limit is {params.max:g}"
        return verdict("fairness", "failed", reason, upper, params.max, **evidence)
    if doubts:
        reason = f"{'; '.join(doubts)}; of what can be judged, {told}"
        return verdict("fairness", "not_enough_data", reason, upper, params.max, **evidence)
    return verdict("fairness", "passed", told, upper, params.max, **evidence)
