"""Estimates with honest bounds: what the gates compare with their limits.

All bounds are one-sided: each of `lower` and `upper` is wrong with probability at most
`1 - confidence` (asymptotically).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

RESAMPLES = 2_000
"""Enough that a 95 % bound moves by about a hundredth of its distance between seeds."""

_CALIBRATED_DRAWS = 300
_CHUNK_CELLS = 4_000_000
_MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A value with a bound below and a bound above."""

    value: float
    lower: float
    upper: float


def delong(labels: Array, first: Array, second: Array, confidence: float) -> Estimate:
    """The AUC of `first` minus that of `second` on the same rows.

    E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson (1988), "Comparing the areas under two or
    more correlated receiver operating characteristic curves", Biometrics 44, 837-845; by
    midranks as in X. Sun, W. Xu (2014), IEEE Signal Processing Letters 21, 1389-1393.

    Args:
        labels: 0 and 1, both present, shape (rows,).
        first: scores, shape (rows,).
        second: scores of the same rows.
        confidence: of each bound.
    """
    from scipy.stats import norm

    positive = labels == 1
    areas, of_positives, of_negatives = zip(
        *(_placements(scores[positive], scores[~positive]) for scores in (first, second)),
        strict=True,
    )
    variance = 0.0
    for placed in (of_positives, of_negatives):
        rows = len(placed[0])
        if rows > 1:
            variance += float(np.var(placed[0] - placed[1], ddof=1)) / rows
    reach = float(norm.ppf(confidence)) * math.sqrt(variance)
    value = areas[0] - areas[1]
    return Estimate(value, value - reach, value + reach)


def auc(labels: Array, scores: Array) -> float:
    """The area under the ROC curve, ties counted half; both classes must be present."""
    positive = labels == 1
    return _placements(scores[positive], scores[~positive])[0]


def _placements(positives: Array, negatives: Array) -> tuple[float, Array, Array]:
    """The AUC, and for each row the share of the other class that it is ranked right of."""
    from scipy.stats import rankdata

    count = len(positives)
    ranks = rankdata(np.concatenate([positives, negatives]))
    of_positives = (ranks[:count] - rankdata(positives)) / len(negatives)
    of_negatives = 1.0 - (ranks[count:] - rankdata(negatives)) / count
    return float(of_positives.mean()), of_positives, of_negatives


def paired_bootstrap(
    columns: Array, statistic: Callable[[Array], Array], *, confidence: float, seed: int
) -> Estimate:
    """A function of column means, with percentile bounds over resampled rows.

    B. Efron, R. Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13. The rows
    are drawn whole, so that what two models share on a row cancels; of more than 10,000 rows,
    10,000 random blocks of equally many are drawn, which costs the same for any number.

    Args:
        columns: what is averaged, shape (rows, columns).
        statistic: takes means of shape (n, columns), gives (n,).
        confidence: of each bound.
        seed: of the resampling.
    """
    source = np.random.default_rng(seed)
    blocks = min(len(columns), _MOST_BLOCKS)
    block = source.permutation(np.arange(len(columns)) % blocks)
    sums = np.column_stack(
        [np.bincount(block, weights=column, minlength=blocks) for column in columns.T]
    )
    sizes = np.bincount(block, minlength=blocks)
    means = []
    chunk = max(1, _CHUNK_CELLS // blocks)
    for start in range(0, RESAMPLES, chunk):
        draws = min(chunk, RESAMPLES - start)
        chosen = source.integers(blocks, size=(draws, blocks))
        chosen += (np.arange(draws) * blocks)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=draws * blocks).reshape(draws, blocks)
        means.append(weights @ sums / (weights @ sizes)[:, None])
    found = statistic(np.concatenate(means))
    value = float(statistic(columns.mean(axis=0)[None, :])[0])
    lower, upper = np.quantile(found, [1.0 - confidence, confidence])
    return Estimate(value, float(lower), float(upper))


def wilson(successes: float, rows: int, confidence: float) -> tuple[float, float]:
    """Bounds of a share. E. B. Wilson (1927), JASA 22, 209-212."""
    from scipy.stats import norm

    z = float(norm.ppf(confidence))
    share = successes / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def share_difference(
    successes: float, rows: int, other_successes: float, other_rows: int, confidence: float
) -> Estimate:
    """A share minus another of other people.

    Method 10 of R. G. Newcombe (1998), "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17, 873-890.
    """
    one, other = successes / rows, other_successes / other_rows
    low, high = wilson(successes, rows, confidence)
    other_low, other_high = wilson(other_successes, other_rows, confidence)
    value = one - other
    return Estimate(
        value,
        value - math.hypot(one - low, other_high - other),
        value + math.hypot(high - one, other - other_low),
    )


def mean_difference(values: Array, others: Array, confidence: float) -> Estimate:
    """A mean minus another of other rows, by B. L. Welch (1947), Biometrika 34, 28-35.

    Both need at least two values.
    """
    from scipy.stats import t

    one, other = (float(np.var(sample, ddof=1)) / len(sample) for sample in (values, others))
    value = float(values.mean() - others.mean())
    spread = one + other
    if spread == 0:
        return Estimate(value, value, value)
    freedom = spread**2 / (one**2 / (len(values) - 1) + other**2 / (len(others) - 1))
    reach = float(t.ppf(confidence, freedom)) * math.sqrt(spread)
    return Estimate(value, value - reach, value + reach)


def equal_count_bins(scores: Array, bins: int) -> Array:
    """The bin of each row, shape (rows,): about equally many rows each, equal scores together."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    found: Array = np.searchsorted(edges, scores, side="left")
    return found


def calibration_error(labels: Array, scores: Array, bins: Array) -> float:
    """Expected calibration error: |mean label - mean score| of each bin, weighted by its rows.

    M. P. Naeini, G. F. Cooper, M. Hauskrecht (2015), "Obtaining well calibrated probabilities
    using Bayesian binning", AAAI.
    """
    return float(np.abs(np.bincount(bins, weights=labels - scores)).sum() / len(labels))


def calibrated_error_limit(scores: Array, bins: Array, *, confidence: float, seed: int) -> float:
    """What the calibration error of a perfectly calibrated model stays below by chance, with
    this confidence: few rows give an error where there is none. Labels are drawn from scores."""
    source = np.random.default_rng(seed)
    draws = [
        calibration_error((source.random(len(scores)) < scores).astype(np.float64), scores, bins)
        for _ in range(_CALIBRATED_DRAWS)
    ]
    return float(np.quantile(draws, confidence))


def spiegelhalter(labels: Array, scores: Array) -> tuple[float, float]:
    """The z statistic and two-sided p-value of "the scores are calibrated".

    D. J. Spiegelhalter (1986), "Probabilistic prediction in patient management and clinical
    trials", Statistics in Medicine 5, 421-433. NaN where all scores are 0, 0.5 or 1.
    """
    from scipy.stats import norm

    weights = 1 - 2 * scores
    variance = float(np.sum(weights**2 * scores * (1 - scores)))
    if variance == 0:
        return math.nan, math.nan
    z = float(np.sum((labels - scores) * weights)) / math.sqrt(variance)
    return z, 2 * float(norm.sf(abs(z)))
