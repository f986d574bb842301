"""Whether rows of now can be told from rows of before, all fields together. Pure.

A classifier learns to tell them apart; where it can, on rows that it has not seen, they differ, be
it in no field alone but in how fields go together (D. Lopez-Paz, M. Oquab, "Revisiting classifier
two-sample tests", ICLR 2017; S. Rabanser et al., "Failing loudly", NeurIPS 2019).

Rows are dealt into `FOLDS` parts at random. Each part but the first is scored by a classifier
that was fitted on the parts before it, so that, given those, its AUC is a two-sample U-statistic
of new rows: with n and m rows it exceeds its mean by t with probability `exp(-2 min(n, m) t^2)` at
most (W. Hoeffding, JASA 58, 1963, section 5b). The parts' exponents add up, as differences of a
martingale do (section 2 there; the same order of fitting and betting is in A. Podkopaev, A. Ramdas,
"Sequential predictive two-sample and independence testing", NeurIPS 2023). The bound is not
asymptotic, and stays true at the small probabilities that many looks leave; permutations, or folds
that learn from each other, could not give these.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.governance.statistics import auc
from aios.monitoring.conditions import CHANCE
from aios.monitoring.drift import spent
from aios.monitoring.judging import ROOM
from aios.records.watching import Condition, Finding, RowComparison, Separated
from aios.telemetry.summaries import LONGEST_TEXT

Rows = Mapping[str, Sequence[Any]]
"""Columns of equal length: numbers, texts, true, false, None."""
FOLDS = 5
LEAST_ROWS = 50
"""Of each side; below, no classifier learns anything."""
MOST_TEXTS = 100
"""Texts of a field that are told apart, the most frequent; all others count as one."""
SHUFFLES = 3
NAMED = 3
"""Fields that a reason names."""
_SUSPICIOUS = 0.05
Numbers = NDArray[np.float64]
Places = NDArray[np.int64]


def compare_rows(reference: Rows, windows: Sequence[Rows], seed: int = 0) -> RowComparison:
    """How well rows of the windows can be told from the reference.

    Nulls are values like others. Fields of lists or objects are left out, and those that never
    vary. The same rows and seed give the same result.

    Args:
        windows: oldest first; each may have any number of rows.
    """
    counts = tuple(_count(one) for one in windows)
    base = _count(reference)
    told = RowComparison(reference_rows=base, rows=counts)
    if base < LEAST_ROWS or sum(counts) < LEAST_ROWS:
        why = f"{sum(counts)} recorded rows beside {base} of the reference; {LEAST_ROWS} are needed"
        return told.model_copy(update={"why": why})
    sides = [reference, *windows]
    names = list(dict.fromkeys(name for side in sides for name in side))
    columns = {name: _Column.of(_joined(sides, name, (base, *counts))) for name in names}
    kept = {name: one for name, one in columns.items() if one is not None and one.varies}
    if not kept:
        return told.model_copy(update={"why": "no input varies, so that nothing can be told apart"})
    part = np.repeat(np.arange(len(sides)), [base, *counts])
    held_out = _held_out(kept, part, seed)
    lasts = tuple(
        _separated(held_out, range(len(sides) - back, len(sides)))
        for back in range(1, len(windows) + 1)
    )
    each = (_separated(held_out, [place]) for place in range(1, len(sides)))
    presence = {name: one.present(part) for name, one in columns.items() if one is not None}
    whole = lasts[-1]
    return told.model_copy(
        update={
            "windows": tuple(None if one is None else one.auc for one in each),
            "last": lasts,
            "telling": held_out.telling if whole and _p_value(whole) < _SUSPICIOUS else {},
            "vanished": tuple(name for name, there in presence.items() if there == (True, False)),
            "appeared": tuple(name for name, there in presence.items() if there == (False, True)),
        }
    )


def judge_rows(condition: Condition, found: RowComparison, alpha: float, look: int) -> Finding:
    """Judge by rows: it holds where the AUC is beyond the limit in each of the last windows, and,
    over all of these, above chance also with its lower bound.

    Args:
        look: how often this condition was judged, this time included.
    """
    last = found.windows[-condition.windows :]
    known = [score for score in last if score is not None]
    together = found.last[condition.windows - 1] if len(found.last) >= condition.windows else None
    if found.why or len(known) < condition.windows or together is None:
        told = found.why or f"rows of {len(known)} of {condition.windows} windows are there"
        return Finding(condition=condition.text, state="not_enough_data", reason=told)
    lower = together.auc - math.sqrt(math.log(1 / spent(alpha, look)) / (2 * together.pairs))
    score, rows = min(known), sum(found.rows[-condition.windows :])
    surely, beyond = lower > CHANCE, score > condition.limit
    clear = score <= CHANCE + (condition.limit - CHANCE) * ROOM
    most = ", ".join(list(found.telling)[:NAMED])
    told = f"{rows:,} rows are told from {found.reference} with an AUC of {score:.3g}" + (
        f" (at least {lower:.3g})" if surely else ""
    )
    told += f", the limit {condition.limit:g}" + (f"; most by {most}" if surely and most else "")
    for what in ("vanished", "appeared"):
        if names := getattr(found, what):
            told += f"; {what}: {', '.join(names[:NAMED])}"
    if beyond and not surely:
        told += "; that may be chance"
    return Finding(
        condition=condition.text,
        state="holds" if beyond and surely else "clear" if clear else "near",
        subject=condition.on,
        score=score,
        reason=told,
        evidence={
            "lower": lower,
            "windows": list(last),
            "rows": rows,
            "reference": found.reference,
            "reference_rows": found.reference_rows,
            "telling": dict(list(found.telling.items())[:20]),
            "vanished": list(found.vanished),
            "appeared": list(found.appeared),
            "look": look,
        },
    )


@dataclass(frozen=True)
class _Column:
    """One field of all rows as numbers, NaN is null; `named` if they stand for texts."""

    values: Numbers
    named: bool

    @classmethod
    def of(cls, values: list[Any]) -> "_Column | None":
        """None where values are lists or objects."""
        present = [value for value in values if value is not None]
        if not all(isinstance(value, bool | int | float | str) for value in present):
            return None
        if not any(isinstance(value, bool | str) for value in present):
            return cls(np.array(values, dtype=np.float64), named=False)
        # Which texts are told apart depends on all rows alike, so that a text which only a few
        # rows have does not give away on which side they are.
        cut = [one[:LONGEST_TEXT] if isinstance(one, str) else one for one in values]
        counted = Counter(one for one in cut if one is not None)
        codes = {text: place for place, (text, _) in enumerate(counted.most_common(MOST_TEXTS))}
        found = [math.nan if one is None else float(codes.get(one, MOST_TEXTS)) for one in cut]
        return cls(np.array(found), named=True)

    @property
    def varies(self) -> bool:
        present = self.values[~np.isnan(self.values)]
        nulls = len(present) < len(self.values)
        return bool(len(present) and (nulls or np.ptp(present) != 0))

    def present(self, part: Places) -> tuple[bool, bool]:
        """Whether the reference has any value, and whether the windows have."""
        there = ~np.isnan(self.values)
        return bool(there[part == 0].any()), bool(there[part > 0].any())


@dataclass(frozen=True)
class _HeldOut:
    """The parts that were scored: for each, whose rows they are (0 is the reference) and scores."""

    parts: list[tuple[Places, Numbers]]
    telling: dict[str, float]


def _held_out(columns: Mapping[str, _Column], part: Places, seed: int) -> _HeldOut:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(seed)
    table = np.column_stack([one.values for one in columns.values()])
    named = np.array([one.named for one in columns.values()])
    fold = np.empty(len(part), dtype=np.int64)
    for side in np.unique(part):
        mine = np.flatnonzero(part == side)
        fold[mine] = random.permutation(len(mine)) % FOLDS
    now = (part > 0).astype(np.int64)
    parts: list[tuple[Places, Numbers]] = []
    telling: dict[str, float] = {}
    # Rows are few: threads that wait for each other would take a hundred times as long.
    with threadpool_limits(1, user_api="openmp"):
        for place in range(1, FOLDS):
            known, new = fold < place, fold == place
            model = HistGradientBoostingClassifier(
                max_iter=30,
                learning_rate=0.15,
                max_leaf_nodes=15,
                categorical_features=named if named.any() else None,
                early_stopping=False,
                random_state=seed,
            ).fit(table[known], now[known])
            parts.append((part[new], model.predict_proba(table[new])[:, 1]))
            if place == FOLDS - 1:
                telling = _telling(model, table[new], now[new], list(columns), random)
    return _HeldOut(parts, telling)


def _telling(
    model: Any, table: Numbers, now: Places, names: list[str], random: np.random.Generator
) -> dict[str, float]:
    """By how much the AUC falls where one field is shuffled (L. Breiman, "Random forests", Machine
    Learning 45, 2001), largest first; those where it does not are left out."""
    whole = auc(now, model.predict_proba(table)[:, 1])
    falls = {}
    for place, name in enumerate(names):
        shuffled = np.vstack([table] * SHUFFLES)
        shuffled[:, place] = np.concatenate(
            [random.permutation(table[:, place]) for _ in range(SHUFFLES)]
        )
        scores = model.predict_proba(shuffled)[:, 1].reshape(SHUFFLES, -1)
        fall = whole - float(np.mean([auc(now, some) for some in scores]))
        if fall > 0:
            falls[name] = fall
    return dict(sorted(falls.items(), key=lambda item: -item[1]))


def _separated(held_out: _HeldOut, sides: Sequence[int]) -> Separated | None:
    """The AUC of the rows of some windows against the reference, over all parts."""
    total, pairs = 0.0, 0
    for part, scores in held_out.parts:
        before, after = scores[part == 0], scores[np.isin(part, sides)]
        size = min(len(before), len(after))
        if size:
            labels = np.repeat([0, 1], [len(before), len(after)])
            total += size * auc(labels, np.concatenate([before, after]))
            pairs += size
    return Separated(auc=total / pairs, pairs=pairs) if pairs else None


def _p_value(found: Separated) -> float:
    return math.exp(-2 * found.pairs * max(found.auc - CHANCE, 0.0) ** 2)


def _count(rows: Rows) -> int:
    return max((len(column) for column in rows.values()), default=0)


def _joined(sides: Sequence[Rows], name: str, counts: Sequence[int]) -> list[Any]:
    """A field of all sides, one after the other; nulls where a side has none."""
    found: list[Any] = []
    for side, count in zip(sides, counts, strict=True):
        values = list(side.get(name, [None] * count))
        found.extend(None if value != value else value for value in values)
    return found
