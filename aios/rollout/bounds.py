"""Confidence sequences: bounds that hold at all sample sizes at once.

An ordinary confidence interval may be looked at once. These may be looked at after every
request, and still the probability that the true value is *ever* outside is at most `alpha`
(Ville's inequality for the nonnegative martingales behind them). All are pure functions of
the counts so far.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache

RATE_PRIOR = (0.1, 1.0)
"""Beta prior of the mixture over error rates. Most of its mass lies near zero, where error
rates are: with no error on either arm, a difference above 0.01 is excluded at alpha 0.05
(0.025 per arm) after 433 requests; the uniform prior would need over 1,000. A rate of 20 %
still has density 0.4, so a bad canary costs it nothing."""

QUANTILE_PRIOR_SIZE = 20.0
"""The mixture for a quantile of level p is Beta(20 p, 20 (1 - p)): wide enough that ten
requests beyond the limit decide, narrow enough that a p95 has an upper bound after about
110 requests at alpha 0.025."""

MEAN_TUNED_COUNT = 1000
"""The mean's sequence is narrowest at about this many values."""


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_power(base: float, exponent: float) -> float:
    if exponent == 0:
        return 0.0
    return exponent * math.log(base) if base > 0 else -math.inf


def log_mixture(successes: float, count: float, rate: float, a: float, b: float) -> float:
    """Log of the beta-binomial mixture martingale against a Bernoulli `rate`.

    M = B(k + a, n - k + b) / B(a, b) / (rate^k (1 - rate)^(n - k)). Under that rate M has
    expectation 1 at all times, so M reaches 1/alpha ever with probability at most alpha
    (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric,
    nonasymptotic confidence sequences", Annals of Statistics 2021, section 3).

    >>> round(log_mixture(0, 100, 0.05, 0.1, 1.0), 3)
    4.618
    """
    failures = count - successes
    likelihood = _log_power(rate, successes) + _log_power(1.0 - rate, failures)
    if likelihood == -math.inf:
        return math.inf
    return _log_beta(successes + a, failures + b) - _log_beta(a, b) - likelihood


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where `excluded` turns false between `outside` and `inside`, within 2^-32 of the span,
    on the safe (outer) side."""
    for _ in range(32):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


@lru_cache(maxsize=65_536)
def rate_lower(errors: float, count: float, alpha: float) -> float:
    """Lower confidence sequence of a Bernoulli rate; 0 without data.

    The smallest rate whose `log_mixture` stays below log(1/alpha).

    >>> rate_lower(0, 50, 0.05)
    0.0
    >>> round(rate_lower(10, 50, 0.05), 4)
    0.0583
    """
    if errors <= 0:
        return 0.0
    limit = -math.log(alpha)
    a, b = RATE_PRIOR
    return _edge(lambda p: log_mixture(errors, count, p, a, b) >= limit, 0.0, errors / count)


@lru_cache(maxsize=65_536)
def rate_upper(errors: float, count: float, alpha: float) -> float:
    """Upper confidence sequence of a Bernoulli rate; 1 without data.

    >>> round(rate_upper(0, 433, 0.025), 4)
    0.01
    """
    if errors >= count:
        return 1.0
    limit = -math.log(alpha)
    a, b = RATE_PRIOR
    return _edge(lambda p: log_mixture(errors, count, p, a, b) >= limit, 1.0, errors / count)


@lru_cache(maxsize=65_536)
def quantile_ranks(level: float, count: int, alpha: float) -> tuple[float, float]:
    """Between which ranks (as fractions) of a sample its true quantile lies, at all times.

    The count of values at or below the true quantile is Bernoulli(level) per request, so
    the counts whose `log_mixture` against `level` stays below log(1/alpha) are those
    possible (Howard and Ramdas, "Sequential estimation of quantiles with applications to
    A/B testing and best-arm identification", Bernoulli 2022, the beta-binomial variant of
    theorem 1). Each side holds with probability 1 - alpha.

    Returns:
        (lower, upper): `lower` is 0 and `upper` infinite where there is no bound yet.

    >>> low, high = quantile_ranks(0.95, 500, 0.025)
    >>> round(low, 3), round(high, 3)
    (0.914, 0.98)
    """
    limit = -math.log(alpha)
    a, b = QUANTILE_PRIOR_SIZE * level, QUANTILE_PRIOR_SIZE * (1 - level)

    def excluded(successes: int) -> bool:
        return log_mixture(successes, count, level, a, b) >= limit

    expected = round(level * count)
    lower = 0
    if excluded(0):
        lower = bisect_left(range(expected), True, key=lambda k: not excluded(k))
    if not excluded(count):
        return lower / count, math.inf
    upper = expected + bisect_left(range(expected, count), True, key=excluded)
    return lower / count, upper / count


def distribution_radius(count: float, alpha: float) -> float:
    """How far a sample's distribution function may be from the true one anywhere, ever.

    0.85 sqrt((log log(e n) + 0.8 log(1612 / alpha)) / n): the time-uniform
    Dvoretzky-Kiefer-Wolfowitz inequality of Howard and Ramdas 2022, corollary 2.

    >>> round(distribution_radius(1000, 0.025), 4)
    0.0889
    """
    if count < 1:
        return 1.0
    spread = math.log(math.log(math.e * count)) + 0.8 * math.log(1612 / alpha)
    return min(1.0, 0.85 * math.sqrt(spread / count))


def mean_radius(count: float, deviation: float, alpha: float) -> float:
    """Half the width of the asymptotic confidence sequence of a mean.

    sd sqrt(2 (n r + 1) / (n^2 r) log(sqrt(n r + 1) / alpha)) with r tuned to be narrowest
    at `MEAN_TUNED_COUNT`: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform
    central limit theory and asymptotic confidence sequences", Annals of Statistics 2024,
    theorem 2.2. It needs no bounds on the values, only a finite variance; it is asymptotic,
    so callers use it from a hundred values on.

    >>> round(mean_radius(1000, 1.0, 0.025), 4)
    0.1037
    """
    if count < 1:
        return math.inf
    log_alpha = -2 * math.log(alpha)
    tuned = (log_alpha + math.log(log_alpha + 1)) / MEAN_TUNED_COUNT
    grown = count * tuned + 1
    spread = 2 * grown / (count * count * tuned) * math.log(math.sqrt(grown) / alpha)
    return deviation * math.sqrt(spread)
