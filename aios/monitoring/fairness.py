"""Whether groups of people fare alike in live traffic, by what came back about them. Pure.

Who belongs to which group is rarely an input of a model, and mostly must not be: it comes with the
feedback, as `{"sex": "f"}`; where it is an input, from the recorded answer. The records of one
request that are of one group count as one answer, whose share is: what turned out about a request
is one piece of evidence, however many records it had.

Rates and names are fairlearn's. A gap counts where its lower bound is beyond the limit: of two
shares by the inequality of Hoeffding (JASA 58, 1963, theorem 2) for the difference of two means,
`sqrt(ln(1 / alpha) / 2 * (1 / n + 1 / m))`, twice what is under the root where requests have people
of several groups, whose answers may depend on each other, as `(a + b)^2 <= 2 a^2 + 2 b^2`. `alpha`
is shared by all ordered pairs of groups, all rates and all looks. The gates' bound (Newcombe's) is
closer at 95 % and no bound at the small probabilities that looks leave: with groups of 30 and 500
people it fails 370 times as often as stated at 1e-7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.governance.fairness import RATES
from aios.governance.measures import NOT_STATED, group_name
from aios.governance.statistics import wilson
from aios.monitoring.bounds import Numbers
from aios.monitoring.drift import spent
from aios.monitoring.judging import State, is_beyond, otherwise
from aios.monitoring.labelled import THRESHOLD
from aios.records.watching import Condition, Finding, Outcome

LEAST_OF_GROUP = 30
"""Rows below which a group, or a rate of it, is not judged, as in the policy that is shipped."""
MOST_GROUPS = 20
"""More values than this are a measured number, such as an age, that nobody sorted into groups."""
SHOWN_CONFIDENCE = 0.95

_METRICS = {
    "demographic_parity_difference": "demographic_parity",
    "equal_opportunity_difference": "equal_opportunity",
    "equalized_odds_difference": "equalised_odds",
}
_AMONG = {
    "accuracy": "answers",
    "selection_rate": "answers",
    "true_positive_rate": "answers with the label 1",
    "false_positive_rate": "answers with the label 0",
}
UNLABELLED = ("demographic_parity_difference",)
"""What can be told before anybody knows what was right."""


@dataclass(frozen=True)
class People:
    """Answers and whom they were about, oldest first; shape [n] each. `chosen` is the share of an
    answer's records that decide for 1, NaN where a score is no chance; `labels` is NaN where the
    truth is not known, `groups` is `not stated` where the group is not, and `alone` is whether the
    request was about one group only."""

    chosen: Numbers
    labels: Numbers
    groups: NDArray[np.object_]
    alone: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.chosen)

    def some(self, which: Any) -> "People":
        """A mask of them, or a slice."""
        return People(self.chosen[which], self.labels[which], self.groups[which], self.alone[which])


@dataclass(frozen=True)
class _Gap:
    """How much more often something holds for group `one` than for `other`, with a lower bound."""

    rate: str
    one: str
    other: str
    value: float
    lower: float


def people(outcomes: Sequence[Outcome], output: str, label: str, attribute: str) -> People:
    """Answers that are numbers, with what is known of whom they were about."""
    chosen, labels, groups, alone = [], [], [], []
    for outcome in outcomes:
        truth = outcome.given.get(label)
        known = float(truth) if isinstance(truth, bool | int | float) else math.nan
        by_group = _decided(outcome, output, attribute)
        for group, decided in by_group.items():
            chosen.append(sum(decided) / len(decided))
            labels.append(known)
            groups.append(group)
            alone.append(len(by_group) == 1)
    return People(
        np.array(chosen), np.array(labels), np.array(groups, dtype=object), np.array(alone, bool)
    )


def _decided(outcome: Outcome, output: str, attribute: str) -> dict[str, list[float]]:
    """By group whether each record of a request decides for 1; NaN where it is no chance."""
    found: dict[str, list[float]] = {}
    for place, outputs in enumerate(outcome.outputs):
        score = outputs.get(output)
        if not isinstance(score, bool | int | float):
            continue
        asked = outcome.inputs[place] if place < len(outcome.inputs) else {}
        group = group_name(outcome.given.get(attribute, asked.get(attribute)))
        decides = float(score >= THRESHOLD) if 0 <= score <= 1 else math.nan
        found.setdefault(group, []).append(decides)
    return found


def _large_enough(mine: People, size: int, windows: int) -> int:
    """Twice as many answers to a window as often as it takes until every group that is large
    enough in all of them is so in the last windows too. Goes by who they are, not how they fare.
    """
    every, counts = np.unique(mine.groups.astype(str), return_counts=True)
    large = every[counts >= LEAST_OF_GROUP]
    while 2 * size * windows <= len(mine):
        last = mine.groups[len(mine) - size * windows :].astype(str)
        if all((last == group).sum() >= LEAST_OF_GROUP for group in large):
            break
        size *= 2
    return size


def judge_fairness(
    condition: Condition, known: People, size: int, alpha: float, look: int
) -> Finding:
    """Judge by the newest answers whose group is known, and for all but demographic parity also
    the truth.

    It holds where one group fares better than another by more than the limit in each of the last
    windows of `size` answers and, over all of these, also with its lower bound. Windows are made
    larger where that is needed for groups of `LEAST_OF_GROUP`, as far as answers are there.

    Args:
        look: how often this condition was judged, this time included.
    """
    usable = known.groups != NOT_STATED
    if condition.measure not in UNLABELLED:
        usable &= ~np.isnan(known.labels)
    mine = known.some(usable)
    size = _large_enough(mine, size, condition.windows)
    used = size * condition.windows
    doubt = _doubt(condition, mine, used, len(known))
    if doubt is not None:
        return Finding(condition=condition.text, state="not_enough_data", reason=doubt)
    mine = mine.some(slice(len(mine) - used, None))
    groups, gaps, too_small = _compared(condition.measure, mine, spent(alpha, look))
    evidence: dict[str, Any] = {"groups": groups, "not_judged": too_small, "answers": used}
    if not gaps:
        told = f"fewer than two groups of {condition.on} are large enough: {'; '.join(too_small)}"
        return Finding(
            condition=condition.text,
            state="not_enough_data",
            subject=condition.on,
            reason=told,
            evidence=evidence,
        )
    windows = [mine.some(slice(start, start + size)) for start in range(0, used, size)]
    sure = [gap for gap in gaps if gap.lower > condition.limit]
    holding = [gap for gap in sure if _in_each(condition, gap, windows)]
    worst = max(holding or gaps, key=lambda gap: gap.value)
    state: State = "holds" if holding else otherwise(condition, worst.value)
    told = (
        f"{condition.measure} on {condition.on} is {worst.value:.3g}, the limit "
        f"{condition.limit:g}, on {used:,} answers: {worst.rate.replace('_', ' ')} of {worst.one} "
        f"{groups[worst.one][worst.rate]:.3g}, of {worst.other} "
        f"{groups[worst.other][worst.rate]:.3g}"
    )
    if state == "near" and is_beyond(condition, worst.value):
        told += ", and that may be chance"
    elif holding:
        told += f"; surely above {max(worst.lower, condition.limit):.3g}"
    return Finding(
        condition=condition.text,
        state=state,
        subject=condition.on,
        score=worst.value,
        reason=told,
        evidence=evidence | {"lower": worst.lower, "look": look},
    )


def groups_view(known: People) -> list[dict[str, Any]]:
    """Each group, the largest first: `group`, `rows`, `selection_rate` with its interval,
    `labels` and `accuracy` with its interval, None where no label is known. Intervals are Wilson's
    at 95 % for each group alone."""
    found = []
    names, counts = np.unique(known.groups.astype(str), return_counts=True)
    for place in np.argsort(-counts, kind="stable")[:MOST_GROUPS]:
        mine = known.some(known.groups == names[place])
        chances = mine.some(~np.isnan(mine.chosen))
        right = _right(chances.some(~np.isnan(chances.labels)))
        found.append(
            {
                "group": str(names[place]),
                "rows": len(mine),
                "selection_rate": float(chances.chosen.mean()) if len(chances) else None,
                "selection_rate_interval": _interval(float(chances.chosen.sum()), len(chances)),
                "labels": len(right),
                "accuracy": float(right.mean()) if len(right) else None,
                "accuracy_interval": _interval(float(right.sum()), len(right)),
            }
        )
    return found


def _doubt(condition: Condition, mine: People, used: int, every: int) -> str | None:
    """Why nothing can be judged, if so."""
    if len(mine) < used:
        what = condition.on if condition.measure in UNLABELLED else f"{condition.on} and the truth"
        return f"{what} is known of {len(mine):,} of {every:,} answers, and {used:,} are needed"
    if (
        np.isnan(mine.chosen).any()
        or not np.isin(mine.labels[~np.isnan(mine.labels)], (0, 1)).all()
    ):
        return "answers are not chances of what is 0 or 1, so that nothing is decided by them"
    names = sorted(set(mine.groups.tolist()))
    if len(names) > MOST_GROUPS:
        return f"{condition.on} has {len(names)} values, and at most {MOST_GROUPS} are groups"
    if len(names) < 2:
        return f"{condition.on} has one group only, {names[0]}"
    return None


Groups = dict[str, dict[str, Any]]
Shares = dict[str, tuple[float, int]]
"""By group: for how many it holds, and of how many."""


def _compared(measure: str, mine: People, alpha: float) -> tuple[Groups, list[_Gap], list[str]]:
    """Figures by group, the gaps of all ordered pairs of groups that are large enough, and what
    was left out."""
    rates = RATES[_METRICS[measure]] if measure in _METRICS else ("accuracy",)
    groups: Groups = {name: {"rows": n} for name, (_, n) in _shares("accuracy", mine).items()}
    judged: list[tuple[str, str, str, Shares]] = []
    too_small = []
    for rate in rates:
        shares = _shares(rate, mine)
        for name, (hits, n) in shares.items():
            share = hits / n if n else None
            groups[name] |= {rate: share, f"{rate}_interval": _interval(hits, n)}
            if n < LEAST_OF_GROUP:
                too_small.append(f"{name} has {n} {_AMONG[rate]}, fewer than {LEAST_OF_GROUP}")
        enough = [name for name, (_, n) in shares.items() if n >= LEAST_OF_GROUP]
        judged += [(rate, one, other, shares) for one, other in permutations(enough, 2)]
    gaps, together = [], 1 if mine.alone.all() else 2
    for rate, one, other, shares in judged:
        (hits, n), (others, m) = shares[one], shares[other]
        value = hits / n - others / m
        reach = math.sqrt(math.log(len(judged) / alpha) / 2 * together * (1 / n + 1 / m))
        gaps.append(_Gap(rate, one, other, value, value - reach))
    return groups, gaps, too_small


def _shares(rate: str, mine: People) -> Shares:
    deserving, everybody = mine.labels >= THRESHOLD, np.ones(len(mine), dtype=bool)
    hits, among = {
        "accuracy": (_right(mine), everybody),
        "selection_rate": (mine.chosen, everybody),
        "true_positive_rate": (mine.chosen, deserving),
        "false_positive_rate": (mine.chosen, ~deserving),
    }[rate]
    found = {}
    for name in np.unique(mine.groups.astype(str)):
        own = among & (mine.groups == name)
        found[str(name)] = (float(hits[own].sum()), int(own.sum()))
    return found


def _right(mine: People) -> Numbers:
    """The share of each answer's records that was right."""
    right: Numbers = np.where(mine.labels >= THRESHOLD, mine.chosen, 1.0 - mine.chosen)
    return right


def _in_each(condition: Condition, gap: _Gap, windows: Sequence[People]) -> bool:
    """Whether each window shows the gap too; one without people of both groups shows nothing."""
    for window in windows:
        shares = _shares(gap.rate, window)
        (hits, n), (others, m) = shares.get(gap.one, (0, 0)), shares.get(gap.other, (0, 0))
        if not n or not m or hits / n - others / m <= condition.limit:
            return False
    return True


def _interval(hits: float, rows: int) -> list[float] | None:
    if not rows:
        return None
    confidence = (1 + SHOWN_CONFIDENCE) / 2
    return list(wilson(hits, rows, confidence))
