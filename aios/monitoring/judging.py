"""What the newest windows, or the newest feedback, say about one condition of a watch. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aios.monitoring.conditions import ADWIN, ESTIMATED
from aios.monitoring.drift import DRIFT, differ, score, spent
from aios.records.watching import Condition, Finding
from aios.telemetry import Summary, merged

ROOM = 0.9
"""An alarm ends when the score is this far on the good side of the limit, and not at it."""
Numbers = NDArray[np.float64]
State = Literal["holds", "near", "clear"]


@dataclass(frozen=True)
class Seen:
    """Summaries of inputs and of outputs, by the names of the fields."""

    inputs: Mapping[str, Summary]
    outputs: Mapping[str, Summary]

    def chosen(self, on: str) -> dict[str, Summary]:
        """The fields that a condition is about."""
        if on == "inputs":
            return dict(self.inputs)
        if on == "outputs":
            return dict(self.outputs)
        every = {**self.inputs, **self.outputs}
        return every if on == "any" else {name: one for name, one in every.items() if name == on}

    @classmethod
    def all_of(cls, parts: "Sequence[Seen]") -> "Seen":
        """Everything that the parts have seen."""
        return cls(
            merged([part.inputs for part in parts]), merged([part.outputs for part in parts])
        )


def judge_windows(
    condition: Condition, reference: Seen, windows: Sequence[Seen], alpha: float, look: int
) -> Finding:
    """Judge by what was asked and answered.

    It holds where a field is beyond the limit in each of the last windows, and all of these
    together differ from the reference by more than chance (`drift.differ`, with `alpha` shared by
    all fields and all looks). A field that vanished (values before, nothing but nulls now) or
    appeared has drifted as far as can be, whatever the measure and the limit.

    Args:
        reference: what is normal: the training data, or the version's first answers.
        windows: oldest first; the last `condition.windows` count.
        look: how often this condition was judged, this time included.
    """
    if len(windows) < condition.windows:
        told = f"{len(windows)} of {condition.windows} windows are there"
        return Finding(condition=condition.text, state="not_enough_data", reason=told)
    last = windows[-condition.windows :]
    together = Seen.all_of(last)
    base, pooled = reference.chosen(condition.on), together.chosen(condition.on)
    named = [name for name in pooled if _comparable(condition, base.get(name), pooled[name])]
    if not named:
        told = f"nothing to compare on {condition.on}: no reference, or no values"
        return Finding(condition=condition.text, state="not_enough_data", reason=told)
    share = spent(alpha, look) / len(named)
    scores: dict[str, float] = {}
    holding: list[str] = []
    presence: dict[str, str] = {}
    for name in named:
        before = base.get(name) or Summary(pooled[name].kind)
        parts = [one.chosen(condition.on).get(name) for one in last]
        change = _presence(condition, before, pooled[name], parts)
        if change is not None and differ(before, pooled[name], share):
            scores[name], presence[name] = math.inf, change
            holding.append(name)
            continue
        each = [_score(condition, before, part) for part in parts]
        scores[name] = _mildest(condition, each)
        if is_beyond(condition, scores[name]) and _surely(condition, before, pooled[name], share):
            holding.append(name)
    evidence = {
        "presence": presence,
        "not_compared": sorted(pooled.keys() - set(named)) if condition.measure in DRIFT else [],
    }
    return _found(condition, scores, holding, len(last), pooled, evidence)


def judge_feedback(
    condition: Condition, predicted: Numbers, truth: Numbers, size: int, alpha: float, look: int
) -> Finding:
    """Judge by what turned out to be true.

    It holds where the measure is beyond the limit in each of the last windows of `size` answers,
    and, over all of these, also with its confidence bound: Hoeffding's for what lies between 0
    and 1, else that of the normal approximation.

    Args:
        predicted, truth: shape [n] both, in the order in which feedback came, oldest first.
        size: labelled answers to a window.
        look: how often this condition was judged, this time included.
    """
    windows = len(predicted) // size
    if windows < condition.windows or not windows:
        told = f"{len(predicted)} labelled answers, and {size * condition.windows} are needed"
        return Finding(condition=condition.text, state="not_enough_data", reason=told)
    share = spent(alpha, look)
    if condition.measure == ADWIN:
        return _adwin(condition, np.abs(predicted - truth), alpha)
    used = size * condition.windows
    predicted, truth = predicted[-used:], truth[-used:]
    losses = _losses(condition.measure, predicted, truth)
    each = [_total(condition.measure, part) for part in np.split(losses, condition.windows)]
    worst = _mildest(condition, each)
    value = _total(condition.measure, losses)
    low, high = _bounds(condition.measure, losses, share)
    sure = low > condition.limit if condition.above else high < condition.limit
    state: State = "holds" if is_beyond(condition, worst) and sure else otherwise(condition, value)
    told = (
        f"{condition.measure} is {value:.3g} on {used:,} labelled answers, and surely "
        f"{'above' if condition.above else 'below'} {condition.limit:g}"
        if state == "holds"
        else f"{condition.measure} is {value:.3g} on {used:,} labelled answers "
        f"({low:.3g} to {high:.3g})"
    )
    return Finding(
        condition=condition.text,
        state=state,
        subject="label",
        score=value,
        reason=told,
        evidence={"lower": low, "upper": high, "labels": used, "look": look},
    )


def measures(predicted: Numbers, truth: Numbers) -> dict[str, float]:
    """What can be said of answers that have feedback: accuracy and brier where answers are chances
    of what is 0 or 1, else mae and rmse."""
    chance = bool(np.isin(truth, (0.0, 1.0)).all() and ((predicted >= 0) & (predicted <= 1)).all())
    names = ("accuracy", "brier") if chance else ("mae", "rmse")
    return {name: _total(name, _losses(name, predicted, truth)) for name in names}


def _adwin(condition: Condition, errors: Numbers, alpha: float) -> Finding:
    """Whether the mean error grew, after Bifet and Gavaldà, "Learning from time-changing data
    with adaptive windowing", SDM 2007. Its `delta` bounds the false alarm of each check, so that
    it is a good detector and no proof."""
    from river.drift import ADWIN as Detector

    detector: Any = Detector(delta=min(alpha, 0.002))  # type: ignore[no-untyped-call]
    before, grew_at, grew_to = 0.0, None, 0.0
    for place, error in enumerate(errors.tolist()):
        mean = detector.estimation
        detector.update(error)
        if detector.drift_detected and detector.estimation > mean:
            before, grew_at, grew_to = mean, place, detector.estimation
    count = len(errors)
    if grew_at is None:
        told = f"no growth of the mean error in {count:,} labelled answers"
        return Finding(
            condition=condition.text,
            state="clear",
            subject="label",
            score=float(errors.mean()),
            reason=told,
        )
    told = f"the mean error grew from {before:.3g} to {grew_to:.3g} at labelled answer {grew_at:,}"
    return Finding(
        condition=condition.text,
        state="holds",
        subject="label",
        score=grew_to,
        reason=told,
        evidence={"at": grew_at, "before": before, "after": grew_to},
    )


def _comparable(condition: Condition, base: Summary | None, now: Summary) -> bool:
    if condition.measure == ESTIMATED:
        return now.kind == "number" and now.present > 0
    if condition.measure == "nulls":
        return now.count > 0
    return base is not None and base.kind == now.kind and base.count > 0


def _presence(
    condition: Condition, base: Summary, now: Summary, parts: Sequence[Summary | None]
) -> str | None:
    """How a field vanished or appeared, in words."""
    if condition.measure not in DRIFT or not base.count:
        return None
    if base.present and now.count and not now.present:
        had = f"{base.present:,} of {base.count:,} values"
        return f"vanished: all of its {now.count:,} values are null; there were {had} before"
    if not base.present and all(part is not None and part.present for part in parts):
        has = f"{now.present:,} of {now.count:,} values"
        return f"appeared: it has {has}, and all of {base.count:,} were null before"
    return None


def _score(condition: Condition, base: Summary, now: Summary | None) -> float:
    if now is None:
        return math.nan
    if condition.measure == ESTIMATED:
        return _estimated(now)[0]
    return score(condition.measure, base, now)


def _estimated(now: Summary) -> tuple[float, float]:
    """The accuracy that calibrated probabilities promise, `mean(max(p, 1 - p))`, and the number
    of answers. Confidence-based performance estimation (Kivimäki et al., arXiv:2407.08649): it
    sees answers that became less sure, and not a world that changed."""
    if not now.present:
        return math.nan, 0
    values, cumulative = now.sketch.steps
    masses = np.diff(cumulative, prepend=0.0)
    sure = np.maximum(np.clip(values, 0, 1), 1 - np.clip(values, 0, 1))
    return float((sure * masses).sum()), now.present


def _surely(condition: Condition, base: Summary, now: Summary, alpha: float) -> bool:
    if condition.measure == ESTIMATED:
        value, count = _estimated(now)
        return value + math.sqrt(math.log(1 / alpha) / (8 * count)) < condition.limit
    if condition.measure == "nulls":
        return now.null_share - _hoeffding(now.count, alpha) > condition.limit
    if condition.measure == "outside":
        return score("outside", base, now) - _hoeffding(now.present, alpha) > condition.limit
    return differ(base, now, alpha)


def _hoeffding(count: int, alpha: float) -> float:
    return math.sqrt(math.log(1 / alpha) / (2 * count)) if count else math.inf


def is_beyond(condition: Condition, value: float) -> bool:
    """Whether a score is on the bad side of the limit."""
    return value > condition.limit if condition.above else value < condition.limit


def otherwise(condition: Condition, value: float) -> State:
    """What a condition that does not hold is: clear only with room to spare."""
    room = ROOM if condition.above else 1 / ROOM
    limit = condition.limit * room
    return "clear" if (value <= limit if condition.above else value >= limit) else "near"


def _mildest(condition: Condition, each: Sequence[float]) -> float:
    """The value of the window that is least off: all are at least as bad. NaN, a window without
    values, is no proof of anything."""
    if any(math.isnan(value) for value in each):
        return math.nan
    return min(each) if condition.above else max(each)


def _found(
    condition: Condition,
    scores: Mapping[str, float],
    holding: Sequence[str],
    windows: int,
    pooled: Mapping[str, Summary],
    evidence: Mapping[str, Any],
) -> Finding:
    known = {name: value for name, value in scores.items() if not math.isnan(value)}
    if not known:
        told = "a window has no values to compare"
        return Finding(condition=condition.text, state="not_enough_data", reason=told)
    pick = max if condition.above else min
    among = {name: known[name] for name in holding} or known
    subject = pick(among, key=lambda name: among[name])
    value = known[subject]
    state: State = "holds" if holding else otherwise(condition, value)
    within = f"in {windows} windows" if windows > 1 else "in the last window"
    told = (
        f"{condition.measure} of {subject} is {value:.3g}, the limit {condition.limit:g}, "
        f"{within} of {pooled[subject].count:,} values together"
    )
    if subject in evidence["presence"]:
        told = f"{subject} {evidence['presence'][subject]}"
    elif state == "near" and is_beyond(condition, value):
        told += ", and that may be chance"
    ranked = sorted(known.items(), key=lambda item: item[1], reverse=condition.above)
    return Finding(
        condition=condition.text,
        state=state,
        subject=subject,
        score=value if math.isfinite(value) else None,
        reason=told,
        evidence={
            "holding": list(holding),
            "scores": {name: value for name, value in ranked[:20] if math.isfinite(value)},
            "values": pooled[subject].count,
            **{name: told for name, told in evidence.items() if told},
        },
    )


def _losses(measure: str, predicted: Numbers, truth: Numbers) -> Numbers:
    if measure == "accuracy":
        right: Numbers = ((predicted >= 0.5) == (truth >= 0.5)).astype(np.float64)
        return right
    if measure == "log_loss":
        surprise: Numbers = np.log(
            np.clip(np.where(truth >= 0.5, predicted, 1 - predicted), 1e-15, 1)
        )
        return -surprise
    apart = np.abs(predicted - truth)
    return apart if measure == "mae" else apart**2


def _total(measure: str, losses: Numbers) -> float:
    mean = float(losses.mean())
    return math.sqrt(mean) if measure == "rmse" else mean


def _bounds(measure: str, losses: Numbers, alpha: float) -> tuple[float, float]:
    mean, count = float(losses.mean()), len(losses)
    if measure in ("accuracy", "brier") and losses.min() >= 0 and losses.max() <= 1:
        width = math.sqrt(math.log(2 / alpha) / (2 * count))
    else:
        from scipy.stats import norm

        deviation = float(losses.std(ddof=1))
        width = float(norm.isf(alpha / 2)) * deviation / math.sqrt(count)
    low, high = max(mean - width, 0.0), mean + width
    if measure == "rmse":
        return math.sqrt(low), math.sqrt(high)
    return low, min(high, 1.0) if measure == "accuracy" else high
