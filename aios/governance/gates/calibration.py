"""Whether a score of 0.7 means 7 of 10."""

import numpy as np

from aios.errors import UsageError
from aios.governance.candidate import Array, Candidate, Context
from aios.governance.gates.params import CalibrationParams
from aios.governance.gates.verdicts import judged_rows, verdict
from aios.governance.measures import NOT_STATED, group_names
from aios.governance.statistics import (
    calibrated_error_limit,
    calibration_error,
    equal_count_bins,
    spiegelhalter,
)
from aios.records import GateResult

_CONFIDENCE = 0.95


def judge_calibration(
    candidate: Candidate, context: Context, params: CalibrationParams
) -> GateResult:
    """The expected calibration error over bins of equally many rows must be at most `max`.

    The error of few rows is above 0 even for a perfect model. Where it is over `max`, but not
    over what a perfectly calibrated model of these scores shows by chance in 19 of 20 cases,
    the rows cannot tell. The evidence has Spiegelhalter's test, which needs no bins. For
    regression the error is in standard deviations of the label.
    """
    labels, scores = judged_rows(candidate)
    binary = candidate.kind == "binary"
    if binary and (scores.min() < 0 or scores.max() > 1):
        raise UsageError(
            f"scores lie from {scores.min():.3g} to {scores.max():.3g}; only probabilities can be "
            "calibrated"
        )
    unit = 1.0 if binary else float(np.std(labels)) or 1.0
    parts = {"all": np.ones(len(labels), dtype=bool), **_parts(candidate, params)}
    found = {
        name: _measure(labels[part] / unit, scores[part] / unit, params, context, binary=binary)
        for name, part in parts.items()
    }
    worst = max(found, key=lambda name: float(found[name]["error"] or 0))
    error, by_chance = float(found[worst]["error"] or 0), found[worst]["by_chance"]
    where = "" if worst == "all" else f" of {worst}"
    told = f"the calibration error{where} is {error:.3f} over {params.bins} bins of equal count"
    evidence = {"bins": params.bins, "binning": "equal count", "parts": found}
    if error <= params.max:
        return verdict("calibration", "passed", told, error, params.max, **evidence)
    if by_chance is not None and error <= by_chance:
        reason = (
            f"{told}, over {params.max:g}; but in so few rows a perfectly calibrated model may "
            f"show {by_chance:.3f}; give more rows, or a limit that they can hold"
        )
        return verdict("calibration", "not_enough_data", reason, error, params.max, **evidence)
    reason = f"{told}; the limit is {params.max:g}"
    return verdict("calibration", "failed", reason, error, params.max, **evidence)


def _parts(candidate: Candidate, params: CalibrationParams) -> dict[str, Array]:
    if not params.by_group:
        return {}
    parts = {}
    for attribute in candidate.protected:
        groups = group_names(candidate.holdout, attribute)
        for name in sorted(set(groups.tolist()) - {NOT_STATED}):
            part = groups == name
            if part.sum() >= params.min_group_size:
                parts[f"{attribute}={name}"] = part
    return parts


def _measure(
    labels: Array, scores: Array, params: CalibrationParams, context: Context, *, binary: bool
) -> dict[str, float | None]:
    bins = equal_count_bins(scores, params.bins)
    found: dict[str, float | None] = {
        "rows": float(len(labels)),
        "error": calibration_error(labels, scores, bins),
        "mean_score": float(scores.mean()),
        "mean_label": float(labels.mean()),
        "by_chance": None,
    }
    if binary:
        z, p_value = spiegelhalter(labels, scores)
        found |= {
            "by_chance": calibrated_error_limit(
                scores, bins, confidence=_CONFIDENCE, seed=context.seed
            ),
            "spiegelhalter_z": z,
            "spiegelhalter_p": p_value,
        }
    return found
