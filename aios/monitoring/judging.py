"""What the newest windows say about one condition of a watch. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aios.monitoring.conditions import ESTIMATED
from aios.monitoring.drift import DRIFT, differ, score, spent
from aios.records.watching import Condition, Finding
from aios.telemetry import Summary, merged

ROOM = 0.9
"""An alarm ends when the score is this far on the good side of the limit, and not at it."""
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
        scores[name] = mildest(condition, each)
        if is_beyond(condition, scores[name]) and _surely(condition, before, pooled[name], share):
            holding.append(name)
    unseen = {} if condition.measure == "nulls" else _unseen(base, pooled, share)
    evidence = {
        "presence": presence,
        "unseen": {name: told for name, told in unseen.items() if name not in presence},
        "not_compared": sorted(pooled.keys() - set(named)) if condition.measure in DRIFT else [],
    }
    return _found(condition, scores, holding, len(last), pooled, evidence)


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


def _unseen(
    base: Mapping[str, Summary], now: Mapping[str, Summary], alpha: float
) -> dict[str, str]:
    """Fields of the reference that have no values now, and not by chance: that no value comes in
    `n` rows, of which each had one with probability `p`, has the probability `(1 - p) ** n`."""
    found = {}
    for name, before in base.items():
        rows = now[name].count if name in now else 0
        if not before.present or (name in now and now[name].present):
            continue
        if name not in now or before.null_share**rows <= alpha:
            found[name] = f"has no values in {rows:,} rows, so that it cannot be compared"
    return found


def _score(condition: Condition, base: Summary, now: Summary | None) -> float:
    if now is None:
        return math.nan
    if condition.measure == ESTIMATED:
        return _estimated(now)[0]
    return score(condition.measure, base, now)


def _estimated(now: Summary) -> tuple[float, float]:
    """The accuracy that calibrated probabilities promise, `mean(max(p, 1 - p))`, and the number
    of answers. Confidence-based performance estimation (Kivimäki et al., arXiv:2407.08649): it
    sees answers that became less sure, and not a world that changed. A sketch's rank error moves
    the mean by as much at most, as `max(p, 1 - p)` falls and rises by 1/2."""
    if not now.present:
        return math.nan, 0
    values, cumulative = now.sketch.steps
    masses = np.diff(cumulative, prepend=0.0)
    sure = np.maximum(np.clip(values, 0, 1), 1 - np.clip(values, 0, 1))
    return float((sure * masses).sum()), now.present


def _surely(condition: Condition, base: Summary, now: Summary, alpha: float) -> bool:
    if condition.measure == ESTIMATED:
        value, count = _estimated(now)
        reach = math.sqrt(math.log(1 / alpha) / (8 * count)) + now.sketch.rank_error
        return value + reach < condition.limit
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


def mildest(condition: Condition, each: Sequence[float]) -> float:
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
    unseen: Mapping[str, str] = evidence["unseen"]
    state: State = "holds" if holding else otherwise(condition, value)
    state = "near" if unseen and state == "clear" else state
    within = f"in {windows} windows" if windows > 1 else "in the last window"
    told = (
        f"{condition.measure} of {subject} is {value:.3g}, the limit {condition.limit:g}, "
        f"{within} of {pooled[subject].count:,} values together"
    )
    if subject in evidence["presence"]:
        told = f"{subject} {evidence['presence'][subject]}"
    elif state == "near" and is_beyond(condition, value):
        told += ", and that may be chance"
    if unseen and not holding:
        told += "".join(f"; {name} {why}" for name, why in list(unseen.items())[:3])
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
