"""What the newest feedback says about one condition of a watch. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.monitoring.bounds import LARGEST, Numbers, growth, lower_mean
from aios.monitoring.conditions import ERROR_DRIFT
from aios.monitoring.drift import spent
from aios.monitoring.judging import State, is_beyond, mildest, otherwise
from aios.records.watching import Condition, Finding, Outcome

THRESHOLD = 0.5
"""From this on a chance decides for 1."""
NO_LOSS = "it wants chances of what is 0 or 1, accuracy also classes, the others numbers"


@dataclass(frozen=True)
class Labelled:
    """Answers whose truth is known, in the order in which that came.

    Attributes:
        predicted, truth: shape [n], a record each; all numbers, or all texts (dtype object).
        requests: shape [n], from 0 on without gaps, which request a record is of: what turned out
            about a request is one piece of evidence, however many records it had.
    """

    predicted: NDArray[Any]
    truth: NDArray[Any]
    requests: NDArray[np.intp]

    @classmethod
    def single(cls, predicted: NDArray[Any], truth: NDArray[Any]) -> "Labelled":
        """Answers to requests of one record each."""
        return cls(predicted, truth, np.arange(len(truth)))

    def __len__(self) -> int:
        return int(self.requests[-1]) + 1 if len(self.requests) else 0

    @property
    def texts(self) -> bool:
        """Whether they are texts."""
        return self.truth.dtype == object

    def between(self, start: int, stop: int) -> "Labelled":
        """The answers to some of the requests."""
        some = slice(*np.searchsorted(self.requests, (start, stop)))
        return Labelled(self.predicted[some], self.truth[some], self.requests[some] - start)


def judge_feedback(
    condition: Condition, known: Labelled, size: int, alpha: float, look: int
) -> Finding:
    """Judge by what turned out to be true.

    It holds where the measure is beyond the limit in each of the last windows of `size` requests
    and, over all of these, also with a bound that holds for any losses of independent requests
    (`bounds.lower_mean`). `error drift` holds where errors grew by more than chance
    (`bounds.growth`) anywhere in what is given. Both are wrong with the probability
    `drift.spent(alpha, look)`, so that newer looks may read older answers again.

    Args:
        look: how often this condition was judged, this time included.
    """
    losses, used = _losses(condition.measure, known), size * condition.windows
    needed = 2 * size if condition.measure == ERROR_DRIFT else used
    if len(losses) < needed:
        told = f"{len(losses):,} labelled answers, and {needed:,} are needed"
        if len(losses) < len(known):
            told += f"; {len(known) - len(losses):,} have no {condition.measure}: {NO_LOSS}"
        return Finding(condition=condition.text, state="not_enough_data", reason=told)
    share = spent(alpha, look)
    if condition.measure == ERROR_DRIFT:
        return _error_drift(condition, losses, size, alpha, share)
    losses = losses[-used:]
    each = [_total(condition.measure, part) for part in np.split(losses, condition.windows)]
    worst = mildest(condition, each)
    value = _total(condition.measure, losses)
    low, high = _bounds(condition.measure, losses, share)
    sure = low > condition.limit if condition.above else high < condition.limit
    state: State = "holds" if is_beyond(condition, worst) and sure else otherwise(condition, value)
    side = "above" if condition.above else "below"
    if state == "holds":
        told = f", and surely {side} {condition.limit:g}"
    else:
        told = f" ({low:.3g} {f'to {high:.3g}' if math.isfinite(high) else 'or more'})"
    return Finding(
        condition=condition.text,
        state=state,
        subject="label",
        score=value,
        reason=f"{condition.measure} is {value:.3g} on {used:,} labelled answers{told}",
        evidence={
            "lower": low,
            "upper": high if math.isfinite(high) else None,
            "labels": used,
            "look": look,
        },
    )


def never_said(finding: Finding, names: Sequence[str], lately: Sequence[Outcome]) -> Finding:
    """The finding, which says so if feedback comes but never with one of these names: the watch or
    whoever gives feedback has it misspelt. A group may also stand in the inputs."""
    said = {name for one in lately for name in one.given}
    known = said.union(*(row for one in lately for row in one.inputs))
    never = [name for name in names if lately and name not in known]
    if not never:
        return finding
    told = f"feedback never says {', '.join(map(repr, never))}, but {', '.join(sorted(said))}"
    return finding.model_copy(update={"reason": f"{finding.reason}; {told}"})


def measures(known: Labelled) -> tuple[str, ...]:
    """What can be said of answers that have feedback: accuracy and brier where all are chances of
    what is 0 or 1, accuracy of texts, accuracy beside mae and rmse of whole numbers, else these."""
    if known.texts:
        return ("accuracy",)
    if _chances(known).all():
        return ("accuracy", "brier")
    return ("accuracy", "mae", "rmse") if _whole(known).all() else ("mae", "rmse")


def measured(measure: str, known: Labelled) -> float:
    """One of the `measures`, a request as much as another."""
    return _total(measure, _losses(measure, known))


def _error_drift(
    condition: Condition, errors: Numbers, size: int, alpha: float, share: float
) -> Finding:
    found = growth(errors, size)
    if found is None or found.chance > share:
        told = f"no growth of the errors in {len(errors):,} labelled answers"
        near = found is not None and found.chance <= alpha
        return Finding(
            condition=condition.text,
            state="near" if near else "clear",
            subject="label",
            score=float(errors.mean()),
            reason=f"{told} that is not chance" if near else told,
        )
    told = (
        f"errors grew at labelled answer {found.at:,} of {len(errors):,}: a later one is the "
        f"larger in {found.larger:.0%} of pairs; their mean was {found.before:.3g} and is "
        f"{found.after:.3g}"
    )
    return Finding(
        condition=condition.text,
        state="holds",
        subject="label",
        score=found.after,
        reason=told,
        evidence=asdict(found),
    )


def _chances(known: Labelled) -> NDArray[np.bool_]:
    """Which records are chances of what is 0 or 1."""
    likely = (known.predicted >= 0) & (known.predicted <= 1)
    chances: NDArray[np.bool_] = likely & np.isin(known.truth, (0.0, 1.0))
    return chances


def _whole(known: Labelled) -> NDArray[np.bool_]:
    whole: NDArray[np.bool_] = (known.predicted % 1 == 0) & (known.truth % 1 == 0)
    return whole


def _losses(measure: str, known: Labelled) -> Numbers:
    """The mean loss of each request of which there is one, oldest first, 0 and more; for accuracy
    whether it was wrong, for `error drift` the error. A chance decides by `THRESHOLD`, classes are
    right where they are equal."""
    every = np.ones(len(known.truth), dtype=bool)
    if known.texts:
        wanted = every if measure in ("accuracy", ERROR_DRIFT) else ~every
        return _by_request(known, (known.predicted != known.truth).astype(np.float64), wanted)
    predicted, truth, chances = known.predicted, known.truth, _chances(known)
    if measure == "accuracy":
        decided = np.where(chances, predicted >= THRESHOLD, predicted)
        wrong = (decided != truth).astype(np.float64)
        return _by_request(known, wrong, chances | _whole(known))
    if measure == "log_loss":
        given = np.where(truth == 1, predicted, 1 - predicted)
        return _by_request(known, -np.log(np.clip(given, 1e-15, 1)), chances)
    with np.errstate(over="ignore"):
        apart = np.minimum(np.abs(predicted - truth), LARGEST)
        squared = measure in ("brier", "rmse")
        losses = np.minimum(apart**2, LARGEST) if squared else apart
    return _by_request(known, losses, chances if measure == "brier" else every)


def _by_request(known: Labelled, losses: Numbers, wanted: NDArray[np.bool_]) -> Numbers:
    requests = known.requests[wanted]
    if not len(requests):
        return np.empty(0)
    _, starts, counts = np.unique(requests, return_index=True, return_counts=True)
    means: Numbers = np.add.reduceat(losses[wanted], starts) / counts
    return means


def _total(measure: str, losses: Numbers) -> float:
    mean = float(losses.mean())
    return {"rmse": math.sqrt(mean), "accuracy": 1 - mean}.get(measure, mean)


def _bounds(measure: str, losses: Numbers, alpha: float) -> tuple[float, float]:
    """Below and above what it surely is not, each wrong with probability `alpha` at most. What has
    no upper limit has no upper bound: a rare loss that was never seen may be any size."""
    low = lower_mean(losses, alpha)
    if measure in ("accuracy", "brier"):
        high = 1 - lower_mean(1 - losses, alpha)
        return (low, high) if measure == "brier" else (1 - high, 1 - low)
    return math.sqrt(low) if measure == "rmse" else low, math.inf
