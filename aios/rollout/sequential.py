"""Anytime-valid comparisons of a challenger with stable, one per kind of abort rule.

Each takes what both arms have shown so far and returns a `Verdict`. Both arms get a
confidence sequence (`aios.rollout.bounds`) with half of alpha each, so nothing is assumed
about how they depend on each other: shadows see the same requests as stable. "worse" is
wrong, over all looks together, with probability at most `alpha`; "not_worse" with at most
`alpha_not_worse`. The requests of one arm are taken to be exchangeable over the era.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from aios.monitoring.evidence import ArmEvidence, Moments
from aios.records import Record
from aios.rollout import bounds
from aios.telemetry.sketches import Sketch

VerdictState = Literal["worse", "not_worse", "undecided", "no_data"]

MIN_MEAN_COUNT = 100
"""Values per arm before a mean is judged: its confidence sequence is asymptotic."""

KPI_MARGIN_DEVIATIONS = 0.1
"""Without a margin in the rule, a KPI is worse when it is a tenth of stable's standard
deviation lower: what about a thousand values per arm can tell."""

_GROWTH = 1.1
_MAX_GROWTHS = 120


class Verdict(Record):
    """What the evidence so far says about one rule.

    `lower` and `upper` bound the quantity of which `estimate` is the point estimate, in the
    unit of `threshold`; None is unbounded or unknown. It is "worse" when `lower` exceeds
    `threshold`, "not_worse" when `upper` does not. `needed` is how many more requests on
    the challenger would decide if both arms went on as now; None when no number would, or
    when it is not known.
    """

    state: VerdictState
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    threshold: float
    needed: int | None = None
    explanation: str


def compare_error_rates(
    canary: ArmEvidence,
    stable: ArmEvidence,
    *,
    margin: float,
    alpha: float,
    alpha_not_worse: float | None = None,
) -> Verdict:
    """Whether the challenger's error rate exceeds stable's by more than `margin`.

    Difference of two beta-binomial mixture confidence sequences (Robbins 1970; Howard et
    al. 2021). At alpha 0.05 and margin 0.01, no error on either arm is "not_worse" after
    433 requests; a challenger that fails 20 % is "worse" after about 25.
    """
    late = alpha if alpha_not_worse is None else alpha_not_worse
    k_c, n_c, k_s, n_s = canary.error_count, canary.attempts, stable.error_count, stable.attempts

    def limits(scale: float) -> tuple[float, float]:
        c, s = (k_c * scale, n_c * scale), (k_s * scale, n_s * scale)
        return (
            bounds.rate_lower(*c, alpha / 2) - bounds.rate_upper(*s, alpha / 2),
            bounds.rate_upper(*c, late / 2) - bounds.rate_lower(*s, late / 2),
        )

    if not n_c or not n_s:
        missing = "the challenger" if not n_c else "stable"
        return Verdict(
            state="no_data", threshold=margin, explanation=f"no request on {missing} yet"
        )
    counts = f"{k_c} of {n_c} failed ({k_c / n_c:.1%}) against {k_s} of {n_s} ({k_s / n_s:.1%})"
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(canary.errors.items()))
    if kinds:
        counts += f" [{kinds}]"
    return _verdict(limits, k_c / n_c - k_s / n_s, margin, n_c, f"{counts}; margin {margin:g}")


def compare_latency(
    canary: ArmEvidence,
    stable: ArmEvidence,
    *,
    quantile: float,
    ratio: float,
    floor_s: float,
    alpha: float,
    alpha_not_worse: float | None = None,
) -> Verdict:
    """Whether the challenger's latency quantile exceeds `ratio` x stable's + `floor_s`.

    Quantile confidence sequences of Howard and Ramdas 2022 on both sketches, widened by the
    sketches' rank error. The verdict's quantity is the ratio, with the floor counted to
    stable: ratio x canary / (ratio x stable + floor), which is canary / stable without a
    floor, and exceeds `ratio` exactly when the rule is broken.
    """
    late = alpha if alpha_not_worse is None else alpha_not_worse
    name = f"p{quantile * 100:.0f}"
    if not _has(canary.latency) or not _has(stable.latency):
        missing = "the challenger" if not _has(canary.latency) else "stable"
        return Verdict(
            state="no_data", threshold=ratio, explanation=f"no latency from {missing} yet"
        )
    fast, slow = stable.latency, canary.latency
    assert fast is not None
    assert slow is not None

    def relative(slow_s: float, fast_s: float) -> float:
        allowed_s = ratio * max(fast_s, 0.0) + floor_s
        if slow_s == math.inf:
            return math.inf
        if allowed_s == math.inf:
            return 0.0
        return ratio * max(slow_s, 0.0) / allowed_s if allowed_s > 0 else math.inf

    def limits(scale: float) -> tuple[float, float]:
        slow_low, _ = _quantile_limits(slow, quantile, scale, alpha / 2)
        _, fast_high = _quantile_limits(fast, quantile, scale, alpha / 2)
        _, slow_high = _quantile_limits(slow, quantile, scale, late / 2)
        fast_low, _ = _quantile_limits(fast, quantile, scale, late / 2)
        return relative(slow_low, fast_high), relative(slow_high, fast_low)

    slow_s, fast_s = slow.quantile(quantile), fast.quantile(quantile)
    text = (
        f"{name} {slow_s * 1e3:.3g} ms against a limit of {ratio:g} x {fast_s * 1e3:.3g} ms "
        f"+ {floor_s * 1e3:g} ms"
    )
    return _verdict(limits, relative(slow_s, fast_s), ratio, slow.count, text)


def compare_outputs(
    canary: ArmEvidence,
    stable: ArmEvidence,
    *,
    tolerance: float,
    alpha: float,
    alpha_not_worse: float | None = None,
) -> Verdict:
    """Whether any numeric output is distributed differently, by more than `tolerance`.

    Two-sample Kolmogorov-Smirnov distance between the sketches, with the time-uniform DKW
    band of Howard and Ramdas 2022 around each and their rank errors added. Rows of one
    request need not be independent, so each band counts requests, not rows. With several
    outputs alpha is divided among them; the output nearest to "worse" is reported.
    """
    names = sorted(set(stable.outputs) | set(canary.outputs))
    pairs = {name: (canary.outputs.get(name), stable.outputs.get(name)) for name in names}
    if not pairs or any(not _has(c) or not _has(s) for c, s in pairs.values()):
        without = [name for name, (c, s) in pairs.items() if not _has(c) or not _has(s)]
        text = (
            f"no values of output {without[0]!r} from both arms"
            if without
            else ("no numeric output from either arm; drop this rule for such a model")
        )
        return Verdict(state="no_data", threshold=tolerance, explanation=text)
    late = alpha if alpha_not_worse is None else alpha_not_worse
    verdicts = [
        _compare_output(
            name,
            (c, min(c.count, canary.attempts)),
            (s, min(s.count, stable.attempts)),
            tolerance,
            alpha / len(pairs),
            late,
        )
        for name, (c, s) in pairs.items()
        if c is not None and s is not None
    ]
    return worst(verdicts)


def _compare_output(
    name: str,
    canary: tuple[Sketch, int],
    stable: tuple[Sketch, int],
    tolerance: float,
    alpha: float,
    late: float,
) -> Verdict:
    distance = ks_distance(canary[0], stable[0])
    error = canary[0].rank_error + stable[0].rank_error

    def radius(scale: float, share: float) -> float:
        return error + sum(
            bounds.distribution_radius(count * scale, share / 2) for _, count in (canary, stable)
        )

    def limits(scale: float) -> tuple[float, float]:
        low = max(0.0, distance - radius(scale, alpha))
        return low, min(1.0, distance + radius(scale, late))

    text = f"output {name!r} differs by KS {distance:.2f}; tolerance {tolerance:g}"
    return _verdict(limits, distance, tolerance, canary[1], text)


def ks_distance(one: Sketch, other: Sketch) -> float:
    """The largest difference between two distribution functions, at the kept values.

    >>> one, other = Sketch(), Sketch()
    >>> one.update_many([1, 2, 3, 4])
    >>> other.update_many([3, 4, 5, 6])
    >>> ks_distance(one, other)
    0.5
    """
    points = np.concatenate([one.steps[0], other.steps[0]])
    return float(np.max(np.abs(one.cdf_many(points) - other.cdf_many(points))))


def compare_means(
    canary: Moments,
    stable: Moments,
    *,
    margin: float | None,
    alpha: float,
    alpha_not_worse: float | None = None,
) -> Verdict:
    """Whether the mean business value (higher is better) is lower by more than `margin`.

    Asymptotic confidence sequences of Waudby-Smith et al. 2024 for both means; no bounds on
    the values are needed, only a finite variance. `margin` None takes a tenth of stable's
    standard deviation. The verdict's quantity is stable's mean minus the challenger's.
    """
    if margin is None:
        margin = KPI_MARGIN_DEVIATIONS * math.sqrt(stable.variance)
    if min(canary.count, stable.count) < MIN_MEAN_COUNT:
        return Verdict(
            state="no_data",
            threshold=margin,
            needed=max(0, MIN_MEAN_COUNT - canary.count) or None,
            explanation=f"{canary.count} values fed back for the challenger, {stable.count} for "
            f"stable; a mean is judged from {MIN_MEAN_COUNT} each",
        )
    late = alpha if alpha_not_worse is None else alpha_not_worse
    difference = stable.mean - canary.mean

    def radius(scale: float, share: float) -> float:
        return sum(
            bounds.mean_radius(arm.count * scale, math.sqrt(arm.variance), share / 4)
            for arm in (canary, stable)
        )

    def limits(scale: float) -> tuple[float, float]:
        return difference - radius(scale, alpha), difference + radius(scale, late)

    text = f"mean {canary.mean:.4g} against {stable.mean:.4g}; margin {margin:.3g}"
    return _verdict(limits, difference, margin, canary.count, text)


def judge_disagreement(
    shadow: ArmEvidence, *, limit: float, alpha: float, alpha_not_worse: float | None = None
) -> Verdict:
    """Whether more than `limit` of a shadow's answers differ from stable's to the same request.

    One beta-binomial mixture confidence sequence. Values of one request need not be
    independent, so the sequence counts requests, not values.
    """
    late = alpha if alpha_not_worse is None else alpha_not_worse
    pairs = shadow.agreement.get("pairs", 0.0)
    over = shadow.agreement.get("over_tolerance", 0.0)
    if not pairs >= 1 or not 0 <= over <= pairs or not shadow.attempts:
        return Verdict(
            state="no_data", threshold=limit, explanation="no answer compared with stable's yet"
        )
    share, count = over / pairs, min(pairs, shadow.attempts)

    def limits(scale: float) -> tuple[float, float]:
        k, n = share * count * scale, count * scale
        return bounds.rate_lower(k, n, alpha), bounds.rate_upper(k, n, late)

    text = f"{over:.0f} of {pairs:.0f} answers differ from stable's ({share:.1%}); limit {limit:g}"
    return _verdict(limits, share, limit, int(count), text)


def worst(verdicts: list[Verdict]) -> Verdict:
    """The one that keeps a rule from being "not_worse": worse, no data, undecided, then the
    one whose upper bound is nearest to the threshold."""
    order = ("worse", "no_data", "undecided", "not_worse")

    def rank(verdict: Verdict) -> tuple[int, float]:
        upper = math.inf if verdict.upper is None else verdict.upper
        return order.index(verdict.state), verdict.threshold - upper

    return min(verdicts, key=rank)


def _has(sketch: Sketch | None) -> bool:
    return sketch is not None and sketch.count > 0


def _quantile_limits(
    sketch: Sketch, level: float, scale: float, alpha: float
) -> tuple[float, float]:
    low, high = bounds.quantile_ranks(level, math.floor(sketch.count * scale), alpha)
    error = sketch.rank_error
    lower = sketch.quantile(low - error) if low > 0 else -math.inf
    return lower, sketch.quantile(high + error)


def _verdict(
    limits: Callable[[float], tuple[float, float]],
    estimate: float,
    threshold: float,
    count: int,
    text: str,
) -> Verdict:
    """The verdict from `limits(1)`, with `needed` from `limits` at grown counts."""
    lower, upper = limits(1.0)
    state, needed = _state(lower, upper, threshold), None
    if state == "undecided":
        needed = _needed(limits, threshold, count)
    return Verdict(
        state=state,
        estimate=_finite(estimate),
        lower=_finite(lower),
        upper=_finite(upper),
        threshold=threshold,
        needed=needed,
        explanation=text,
    )


def _state(lower: float, upper: float, threshold: float) -> VerdictState:
    if lower > threshold:
        return "worse"
    return "not_worse" if upper <= threshold else "undecided"


def _needed(
    limits: Callable[[float], tuple[float, float]], threshold: float, count: int
) -> int | None:
    """Further requests, to within 10 %, until a decision if the rates stay as they are."""

    def decided(exponent: int) -> bool:
        return _state(*limits(_GROWTH**exponent), threshold) != "undecided"

    if not decided(_MAX_GROWTHS):
        return None
    low, high = 0, _MAX_GROWTHS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return max(1, math.ceil(count * (_GROWTH**high - 1)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def looks_harmful(verdicts: Mapping[str, Verdict]) -> bool:
    """Whether any point estimate is beyond its threshold: harm as it first shows, before it
    is proven."""
    return any(
        verdict.estimate is not None and verdict.estimate > verdict.threshold
        for verdict in verdicts.values()
    )
