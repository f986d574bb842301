"""Bounds that hold for any number of labelled answers and any size of errors. Pure."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
BETS = np.geomspace(0.9, 0.002, 16)
"""From large ones, which a few dozen answers need, to those that pay over 100,000."""
TILTS = np.geomspace(0.03, 60.0, 40)
"""Chernoff's free parameter, for ranks from 0 to 1 that are off by a hundredth or by all."""
HALVINGS = 16
"""How closely a bound is found: to 1 / 65,536 of the mean, on the safe side."""
LARGEST = 1e300
"""What lies beyond counts as this, which leaves a lower bound a lower bound."""


def lower_mean(losses: Numbers, alpha: float) -> float:
    """What the mean surely exceeds, wrongly with probability `alpha` at most; 0 and more.

    The losses are independent and 0 or more, and need no upper limit and no variance. If their
    mean is `m` at most, `prod(1 + bet * (loss / m - 1))` has a mean of 1 at most for each bet from
    0 to 1, and so has the average over `BETS` (Vovk and Wang, "E-values", Ann. Statist. 49, 2021);
    by Markov's inequality it reaches `1 / alpha` with probability `alpha` at most. The bound is
    the largest `m` that is refuted so (Waudby-Smith and Ramdas, "Estimating means of bounded
    random variables by betting", J. R. Stat. Soc. B 86, 2024, of which this is the side that
    needs no limit).

    >>> round(lower_mean(np.ones(100), 0.05), 2)
    0.94

    Args:
        losses: shape [n].
    """
    losses = np.minimum(losses, LARGEST)
    mean = float(losses.mean())
    if mean <= 0.0:
        return 0.0
    losses, refuted, left = losses / mean, 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (refuted + left) / 2
        if _evidence(losses / middle - 1.0) >= -math.log(alpha):
            refuted = middle
        else:
            left = middle
    return refuted * mean


def _evidence(gains: Numbers) -> float:
    """The logarithm of what the bets on `gains`, -1 and more, have made of 1, on average."""
    won = np.log1p(np.outer(BETS, gains)).sum(axis=1)
    most = float(won.max())
    return most + math.log(float(np.exp(won - most).mean()))


@dataclass(frozen=True)
class Growth:
    """Where errors grew: the later ones, from place `at` on, are the larger in `larger` of all
    pairs of an earlier and a later one (ties count half). `chance` bounds the probability that
    errors which are all alike show as much anywhere."""

    at: int
    before: float
    after: float
    larger: float
    chance: float


def growth(errors: Numbers, step: int) -> Growth | None:
    """The place after which errors are larger most surely; None if they are so nowhere.

    By rank among all errors, so that neither their unit nor their distribution matters (Pettitt,
    "A non-parametric approach to the change-point problem", Appl. Statist. 28, 1979; its limit
    distribution is not used). Were the errors exchangeable, the later ones would be drawn from all
    without replacement. How far the sum of their ranks may be off is then bounded by Chernoff's
    inequality for as many draws with replacement (Hoeffding, JASA 58, 1963, theorem 4), whose
    moments are known, as all ranks are, and by Serfling's (Ann. Statist. 2, 1974, corollary 1.1);
    the lower one counts, times the number of places.

    It sees that errors are larger more often, and not that a few became very large.

    Args:
        errors: shape [n], oldest first.
        step: places are tried every so many, back from the newest.
    """
    from scipy.stats import rankdata

    count = len(errors)
    places = np.arange(count - step, step - 1, -step)
    if not len(places):
        return None
    ranks = rankdata(errors) / count
    off = ranks - ranks.mean()
    excess = np.cumsum(off[::-1])[::-1][places]
    grown = excess > 1e-9
    if not grown.any():
        return None
    fewer = np.minimum(places, count - places)
    moments = np.where(places >= count - places, *(_moments(side) for side in (off, -off)))
    chernoff = (np.outer(TILTS, excess) - fewer * moments).max(axis=0)
    serfling = 2.0 * excess**2 / (fewer * (count - fewer + 1) / count * float(np.ptp(off)) ** 2)
    surprise = np.where(grown, np.maximum(chernoff, serfling), -np.inf)
    best = int(surprise.argmax())
    at = int(places[best])
    return Growth(
        at=at,
        before=float(errors[:at].mean()),
        after=float(errors[at:].mean()),
        larger=0.5 + float(excess[best]) / (count - at) * count / at,
        chance=min(1.0, len(places) * math.exp(-float(surprise[best]))),
    )


def _moments(off: Numbers) -> Numbers:
    """The cumulant generating function at each of `TILTS`, shape [tilts, 1]."""
    values, counts = np.unique(off, return_counts=True)
    mean: Numbers = np.exp(np.outer(TILTS, values)) @ (counts / len(off))
    return np.log(mean)[:, None]
