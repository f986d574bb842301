"""How far two distributions are apart, and whether that can be chance.

A score says how far (`SCORES`); `differ` says, with a bound on the error that holds for any
number of rows, that the two did not come from one distribution. An alarm wants both: at a
million rows everything differs a little, and at fifty a large score is noise.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aios.telemetry import Summary

Shares = NDArray[np.float64]
BINS = 10
LEAST_SHARE = 1e-4
"""What an empty bin counts as in PSI, which has a logarithm."""


def psi(reference: Summary, now: Summary) -> float:
    """Population stability index over the reference's deciles, or its texts; 0 and more.

    `sum((q - p) * ln(q / p))` (Siddiqi, "Credit Risk Scorecards", 2006; the symmetrised
    Kullback-Leibler divergence). Usual reading: below 0.1 stable, above 0.2 shifted.
    """
    p, q = (np.maximum(shares, LEAST_SHARE) for shares in binned(reference, now))
    return float(((q - p) * np.log(q / p)).sum())


def ks(reference: Summary, now: Summary) -> float:
    """Kolmogorov-Smirnov distance, 0 to 1; for texts the total variation distance."""
    if reference.kind == "text":
        p, q = binned(reference, now)
        return float(np.abs(p - q).sum() / 2)
    points = np.union1d(reference.sketch.steps[0], now.sketch.steps[0])
    apart = np.abs(reference.sketch.cdf_many(points) - now.sketch.cdf_many(points))
    return float(apart.max())


def js(reference: Summary, now: Summary) -> float:
    """Jensen-Shannon distance in base 2, 0 to 1 (Lin, IEEE Trans. Inf. Theory 37, 1991)."""
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(*binned(reference, now), base=2))


def wasserstein(reference: Summary, now: Summary) -> float:
    """Earth mover's distance in standard deviations of the reference; for texts as `ks`.

    A reference that never varies has no scale: then 0 for the same constant, else infinity.
    """
    if reference.kind == "text":
        return ks(reference, now)
    from scipy.stats import wasserstein_distance

    (u, p), (v, q) = (_masses(one) for one in (reference, now))
    distance = float(wasserstein_distance(u, v, p, q))
    mean = float((u * p).sum())
    deviation = math.sqrt(max(0.0, float(((u - mean) ** 2 * p).sum())))
    if deviation == 0.0:
        return 0.0 if distance == 0.0 else math.inf
    return distance / deviation


def chi2(reference: Summary, now: Summary) -> float:
    """Cramér's V of Pearson's chi-square over bins or texts by reference and now; 0 to 1."""
    p, q = binned(reference, now)
    n, m = reference.present, now.present
    both = (p * n + q * m) / (n + m)
    there = both > 0
    statistic = (n * (p - both)[there] ** 2 + m * (q - both)[there] ** 2) / both[there]
    return math.sqrt(float(statistic.sum()) / (n + m))


def nulls(reference: Summary, now: Summary) -> float:
    """The share of nulls now; what the reference had does not matter."""
    return now.null_share


def outside(reference: Summary, now: Summary) -> float:
    """The share of values that the reference never had: beyond its range, or unknown texts."""
    if reference.kind == "text":
        known = reference.texts
        others = reference.present - sum(known.values())
        if others > 0:
            return 0.0  # which texts these were is not kept
        seen = sum(count for text, count in now.texts.items() if text in known)
        return 1.0 - seen / now.present
    low, high = reference.sketch.min, reference.sketch.max
    below = now.sketch.cdf(float(np.nextafter(np.float32(low), np.float32(-np.inf))))
    return below + 1.0 - now.sketch.cdf(high)


SCORES: dict[str, Callable[[Summary, Summary], float]] = {
    "chi2": chi2,
    "js": js,
    "ks": ks,
    "nulls": nulls,
    "outside": outside,
    "psi": psi,
    "wasserstein": wasserstein,
}
DRIFT = ("chi2", "js", "ks", "psi", "wasserstein")
QUALITY = ("nulls", "outside")


def score(measure: str, reference: Summary, now: Summary) -> float:
    """One of `SCORES`; NaN where one side has no values to compare."""
    if measure == "nulls":
        return nulls(reference, now)
    if not reference.present or not now.present:
        return math.nan
    return SCORES[measure](reference, now)


def differ(reference: Summary, now: Summary, alpha: float) -> bool:
    """Whether both cannot come from one distribution, wrongly with probability `alpha` at most.

    For numbers by the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant
    (Ann. Probab. 18, 1990) for each side, plus the sketches' own rank errors; for texts by that
    of Weissman et al. ("Inequalities for the L1 deviation of the empirical distribution", HP
    Labs 2003); for nulls by Hoeffding's. None is asymptotic. Rows count as independent.

    Where a sketch has dropped values, that of numbers is approximate: the rank error is what KLL
    keeps to in 99 % of sketches, so that formally it is outside `alpha`.
    """
    apart = abs(reference.null_share - now.null_share)
    if apart > _hoeffding(reference.count, alpha / 4) + _hoeffding(now.count, alpha / 4):
        return True
    n, m = reference.present, now.present
    if not n or not m:
        return False
    if reference.kind == "number":
        noise = sum(math.sqrt(math.log(8 / alpha) / (2 * size)) for size in (n, m))
        return ks(reference, now) > noise + reference.sketch.rank_error + now.sketch.rank_error
    p, q = binned(reference, now)
    words = len(p) * math.log(2)
    noise = sum(math.sqrt(2 * (words + math.log(4 / alpha)) / size) for size in (n, m))
    return float(np.abs(p - q).sum()) > noise


def spent(alpha: float, look: int) -> float:
    """The part of `alpha` for the look number `look`, from 1: `alpha / (look * (look + 1))`.

    The parts of all looks that will ever be made add up to `alpha`, so that a watch which looks
    every minute for years raises a false alarm with that probability in all.
    """
    return alpha / (look * (look + 1))


def binned(reference: Summary, now: Summary) -> tuple[Shares, Shares]:
    """The shares of both, of equal length: between the reference's deciles, or by its texts with
    all others as one. Where one side has more texts than it can name, both are compared by the
    hashes of all of them: what is not named is not gone."""
    if reference.kind == "text":
        exact = reference.named and now.named
        if not exact and reference.buckets is not None and now.buckets is not None:
            return reference.buckets / reference.present, now.buckets / now.present
        names = list(reference.texts)
        return _named(reference, names), _named(now, names)
    values, cumulative = reference.sketch.steps
    places = np.searchsorted(cumulative, np.arange(1, BINS) / BINS - 1e-12)
    edges = np.unique(values[np.minimum(places, len(values) - 1)])
    return _between(reference, edges), _between(now, edges)


def _between(summary: Summary, edges: Shares) -> Shares:
    cumulative = np.concatenate(([0.0], summary.sketch.cdf_many(edges), [1.0]))
    return np.diff(cumulative)


def _named(summary: Summary, names: list[str]) -> Shares:
    texts = summary.texts
    counts = [texts.get(name, 0) for name in names]
    others = max(summary.present - sum(counts), 0)
    shares = np.array([*counts, others], dtype=np.float64)
    total: float = shares.sum()
    return shares / total


def _masses(summary: Summary) -> tuple[Shares, Shares]:
    values, cumulative = summary.sketch.steps
    return values, np.diff(cumulative, prepend=0.0)


def _hoeffding(size: int, alpha: float) -> float:
    return math.sqrt(math.log(2 / alpha) / (2 * size)) if size else math.inf
