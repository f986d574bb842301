"""Whether a candidate predicts at least as well as stable, on the same rows."""

import math
from typing import Any

import numpy as np

from aios.errors import NotEnoughEvidence, UsageError
from aios.governance.candidate import Array, Candidate, Context
from aios.governance.gates.params import QualityParams
from aios.governance.gates.verdicts import judged_rows, verdict
from aios.governance.measures import log_losses, metrics
from aios.governance.statistics import Estimate, delong, paired_bootstrap
from aios.records import GateResult

_METRICS_OF = {
    "binary": ("auc", "log_loss", "brier", "accuracy"),
    "regression": ("rmse", "mae", "r2"),
}
_RELATIVE = ("rmse", "mae")


def judge_quality(candidate: Candidate, context: Context, params: QualityParams) -> GateResult:
    """A paired test of non-inferiority (S. Wellek, 2010, "Testing Statistical Hypotheses of
    Equivalence and Noninferiority", chapter 2).

    The gain is how much better the candidate is than stable on the same holdout. Passed: its
    lower bound is not below `-margin`, so that a candidate worse by the margin passes with
    probability at most `1 - confidence`. Failed: its upper bound is below `-margin`, so that a
    candidate within the margin fails as rarely. Between the two the rows cannot tell. Without
    a stable version the candidate must beat the best constant: lower bound above 0.

    Both are statements for many rows. At the fewest that are taken (300 by default) an AUC near
    1 worse by a little more than the margin was seen to pass in 12 % of simulated draws.

    AUC by DeLong, the rest by a paired bootstrap. For rmse and mae the gain is a fraction of
    stable's. A metric of the user's own cannot be tested from scores: then AUC or rmse is.

    Raises:
        NotEnoughEvidence: too few rows.
        UsageError: the policy's metric is of probabilities, and the scores are none.
    """
    labels, scores = judged_rows(candidate, min_class_rows=params.min_class_rows)
    metric = _metric(candidate, context, params)
    stable = context.stable
    if stable is None:
        rival, name = np.full(len(labels), labels.mean()), "the best constant"
    elif stable.scores is None:
        raise NotEnoughEvidence(
            f"{stable.ref} cannot answer the holdout's rows, so that there is nothing to compare "
            "with; give data that both contracts take"
        )
    else:
        rival, name = stable.scores.astype(np.float64), stable.ref
        if rival.shape != labels.shape or not np.isfinite(rival).all():
            raise NotEnoughEvidence(f"{stable.ref} does not answer every row of the holdout")
    _ask_rows(len(labels), first=stable is None, params=params)
    method, gain = _gain(metric, labels, scores, rival, params, context)
    evidence: dict[str, Any] = {
        "metric": metric,
        "method": method,
        "confidence": params.confidence,
        "rows": len(labels),
        "against": name,
        "gain": gain.value,
        "lower": gain.lower,
        "upper": gain.upper,
        "candidate": metrics(candidate.kind, labels, scores, params.decision_threshold),
        "other": metrics(candidate.kind, labels, rival, params.decision_threshold),
    }
    return _verdict(gain, name, metric, first=stable is None, params=params, evidence=evidence)


def _verdict(
    gain: Estimate,
    name: str,
    metric: str,
    *,
    first: bool,
    params: QualityParams,
    evidence: dict[str, Any],
) -> GateResult:
    limit = 0.0 if first else -params.margin
    unit = " of its value" if metric in _RELATIVE else ""
    told = (
        f"{metric} gains {gain.value:+.4f}{unit} over {name} "
        f"({gain.lower:+.4f} to {gain.upper:+.4f})"
    )
    if gain.lower > limit or (not first and gain.lower >= limit):
        return verdict("quality", "passed", told, gain.lower, limit, **evidence)
    if gain.upper < limit or (first and gain.upper <= 0):
        reason = f"{told}: worse than the limit of {limit:+.4f}"
        return verdict("quality", "failed", reason, gain.lower, limit, **evidence)
    reason = f"{told}: these rows cannot tell whether it is within the limit of {limit:+.4f}"
    # The bound shrinks with the root of the rows.
    reach, room = gain.value - gain.lower, gain.value - limit
    if room > 0:
        needed = int(np.ceil(evidence["rows"] * (reach / room) ** 2))
        evidence["rows_needed"] = needed
        reason += f"; about {needed:,} rows would"
    return verdict("quality", "not_enough_data", reason, gain.lower, limit, **evidence)


def _ask_rows(rows: int, *, first: bool, params: QualityParams) -> None:
    """Of fewer rows than this none need show a loss of the margin that is there: a share
    `margin` is absent from `rows` draws with probability `(1 - margin) ** rows`."""
    if first or not 0 < params.margin < 1:
        return
    needed = math.ceil(math.log(1 - params.confidence) / math.log(1 - params.margin))
    if rows < needed:
        raise NotEnoughEvidence(
            f"the holdout has {rows} rows; to see a loss of {params.margin:g} with confidence "
            f"{params.confidence:g} takes at least {needed}"
        )


def _metric(candidate: Candidate, context: Context, params: QualityParams) -> str:
    known = _METRICS_OF[candidate.kind]
    wanted = params.metric or context.metric
    if wanted not in known:
        return known[0]
    low, high = candidate.scores.min(), candidate.scores.max()
    if wanted in ("log_loss", "brier") and (low < 0 or high > 1):
        if params.metric is None:
            return known[0]
        raise UsageError(
            f"the policy asks for {wanted}, which is of probabilities; the scores are {low:.3g} to "
            f"{high:.3g}"
        )
    return wanted


def _gain(
    metric: str,
    labels: Array,
    scores: Array,
    rival: Array,
    params: QualityParams,
    context: Context,
) -> tuple[str, Estimate]:
    if metric == "auc":
        return "DeLong", delong(labels, scores, rival, params.confidence)
    losses = [_losses(metric, labels, given, params) for given in (scores, rival)]
    centred = labels - labels.mean()
    columns = np.column_stack([*losses, centred, centred**2])

    def gain(means: Array) -> Array:
        one, other = means[:, 0], means[:, 1]
        if metric == "rmse":
            one, other = np.sqrt(one), np.sqrt(other)
        if metric == "r2":
            spread = means[:, 3] - means[:, 2] ** 2
            return np.asarray((other - one) / np.where(spread > 0, spread, 1.0))
        if metric in _RELATIVE:
            return np.asarray((other - one) / np.where(other > 0, other, 1.0))
        return np.asarray(other - one)

    return "paired bootstrap", paired_bootstrap(
        columns, gain, confidence=params.confidence, seed=context.seed
    )


def _losses(metric: str, labels: Array, scores: Array, params: QualityParams) -> Array:
    """What is averaged per row; smaller is better."""
    if metric == "log_loss":
        return log_losses(labels, np.clip(scores, 0, 1))
    if metric == "accuracy":
        wrong: Array = (scores >= params.decision_threshold) != (labels == 1)
        return wrong.astype(np.float64)
    errors: Array = np.abs(labels - scores)
    return errors if metric == "mae" else errors * errors
