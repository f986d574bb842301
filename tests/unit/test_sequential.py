"""The comparisons keep their error probability under constant looking, and find what is bad."""

import doctest
import math
from collections.abc import Iterator

import numpy as np
import pytest

from aios.monitoring import ArmEvidence, Moments
from aios.rollout import bounds, sequential
from aios.rollout.sequential import (
    compare_error_rates,
    compare_latency,
    compare_means,
    compare_outputs,
    judge_disagreement,
    ks_distance,
    worst,
)
from aios.telemetry import Sketch

LOOKS = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)
RUNS = 1000


def counts(errors: int, attempts: int) -> ArmEvidence:
    return ArmEvidence(version=1, attempts=attempts, errors={"model_failed": errors})


def sketch(values: "np.ndarray | list[float]") -> Sketch:
    made = Sketch()
    made.update_many(values)
    return made


def timed(values: "np.ndarray | list[float]") -> ArmEvidence:
    return ArmEvidence(version=1, attempts=len(values), latency=sketch(values))


def scored(values: "np.ndarray | list[float]", name: str = "approve") -> ArmEvidence:
    return ArmEvidence(version=1, attempts=len(values), outputs={name: sketch(values)})


def errors_verdict(canary: tuple[int, int], stable: tuple[int, int], alpha: float = 0.05) -> str:
    arms = counts(*canary), counts(*stable)
    return compare_error_rates(*arms, margin=0.01, alpha=alpha).state


def worse_share(rate_c: float, rate_s: float, alpha: float, seed: int) -> float:
    """Share of runs that ever said "worse", looking at every one of LOOKS."""
    generator = np.random.default_rng(seed)
    steps = np.diff((0, *LOOKS))
    canary = np.cumsum(generator.binomial(steps, rate_c, (RUNS, len(LOOKS))), axis=1)
    stable = np.cumsum(generator.binomial(steps * 3, rate_s, (RUNS, len(LOOKS))), axis=1)
    said = [
        any(
            bounds.rate_lower(int(k_c), n, alpha / 2)
            > bounds.rate_upper(int(k_s), 3 * n, alpha / 2) + 0.01
            for n, k_c, k_s in zip(LOOKS, *pair, strict=True)
        )
        for pair in zip(canary, stable, strict=True)
    ]
    return float(np.mean(said))


@pytest.mark.parametrize("module", [bounds, sequential])
def test_docstring_numbers_are_true(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.failed == 0
    assert result.attempted > 0


# -- errors -------------------------------------------------------------------------------


def test_no_error_on_either_arm_is_not_worse_within_600_requests() -> None:
    assert errors_verdict((0, 600), (0, 11_400)) == "not_worse"
    assert errors_verdict((0, 433), (0, 8_000)) == "not_worse"
    assert errors_verdict((0, 400), (0, 8_000)) == "undecided"


def test_a_canary_failing_a_fifth_is_worse_after_30_requests() -> None:
    assert errors_verdict((6, 30), (0, 570)) == "worse"
    assert errors_verdict((8, 40), (0, 760), alpha=0.05 / 6) == "worse"


def test_identical_arms_are_called_worse_less_often_than_stated() -> None:
    for rate in (0.0, 0.02, 0.3):
        assert worse_share(rate, rate, alpha=0.05, seed=1) <= 0.05


def test_the_stated_probability_holds_on_the_edge_of_the_margin() -> None:
    assert worse_share(0.04, 0.03, alpha=0.05, seed=2) <= 0.05
    assert worse_share(0.04, 0.03, alpha=0.5, seed=3) <= 0.5


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.9])
def test_one_sequence_covers_its_rate_at_all_looks(rate: float) -> None:
    generator = np.random.default_rng(4)
    steps = np.diff((0, *LOOKS))
    seen = np.cumsum(generator.binomial(steps, rate, (RUNS, len(LOOKS))), axis=1)
    missed = [
        any(
            not bounds.rate_lower(int(k), n, 0.1) <= rate <= bounds.rate_upper(int(k), n, 0.1)
            for n, k in zip(LOOKS, row, strict=True)
        )
        for row in seen
    ]
    assert np.mean(missed) <= 0.1


def test_bad_canaries_are_found() -> None:
    assert worse_share(0.2, 0.0, alpha=0.05 / 6, seed=5) == 1.0
    assert worse_share(0.05, 0.0, alpha=0.05 / 6, seed=6) >= 0.99


def test_no_requests_is_no_data() -> None:
    assert errors_verdict((0, 0), (0, 100)) == "no_data"
    assert errors_verdict((5, 5), (0, 0)) == "no_data"


def test_needed_requests_do_decide() -> None:
    verdict = compare_error_rates(counts(0, 100), counts(0, 900), margin=0.01, alpha=0.05)
    assert verdict.state == "undecided"
    assert verdict.needed is not None
    assert 333 <= verdict.needed <= 380
    assert errors_verdict((0, 100 + verdict.needed), (0, 9 * (100 + verdict.needed))) == "not_worse"


def test_a_canary_exactly_on_the_margin_needs_no_finite_number() -> None:
    verdict = compare_error_rates(counts(11, 1000), counts(1, 1000), margin=0.01, alpha=0.05)
    assert (verdict.state, verdict.needed) == ("undecided", None)


def test_explanations_hold_the_numbers_and_the_kinds() -> None:
    verdict = compare_error_rates(counts(6, 30), counts(0, 570), margin=0.01, alpha=0.05)
    assert verdict.explanation.startswith("6 of 30 failed (20.0%) against 0 of 570 (0.0%)")
    assert "model_failed 6" in verdict.explanation
    assert verdict.lower is not None
    assert verdict.lower > verdict.threshold == 0.01


# -- latency ------------------------------------------------------------------------------


def latency_state(canary: ArmEvidence, stable: ArmEvidence, **more: float) -> str:
    settings = {"quantile": 0.95, "ratio": 1.5, "floor_s": 0.01, "alpha": 0.05, **more}
    return compare_latency(canary, stable, **settings).state


def test_a_canary_five_times_slower_is_worse_after_30_requests() -> None:
    generator = np.random.default_rng(7)
    slow, fast = generator.gamma(4, 0.05, 30), generator.gamma(4, 0.01, 570)
    assert latency_state(timed(slow), timed(fast), alpha=0.05 / 6) == "worse"


def test_an_equally_fast_canary_is_not_worse_within_600_requests() -> None:
    generator = np.random.default_rng(8)
    arms = generator.gamma(4, 0.01, 600), generator.gamma(4, 0.01, 11_400)
    assert latency_state(timed(arms[0]), timed(arms[1])) == "not_worse"


def test_microseconds_do_not_matter_below_the_floor() -> None:
    slow, fast = timed([0.0008] * 200), timed([0.0001] * 4000)
    assert latency_state(slow, fast) == "not_worse"
    assert latency_state(slow, fast, floor_s=0.0) == "worse"


def test_few_requests_have_no_upper_bound_on_a_p95() -> None:
    verdict = compare_latency(
        timed([0.01] * 50), timed([0.01] * 5000), quantile=0.95, ratio=1.5, floor_s=0, alpha=0.05
    )
    assert (verdict.state, verdict.upper) == ("undecided", None)
    assert verdict.needed is not None
    assert 60 <= verdict.needed <= 70


def test_latency_without_a_sketch_is_no_data() -> None:
    assert latency_state(counts(0, 100), timed([0.1])) == "no_data"
    assert latency_state(timed([0.1]), timed([])) == "no_data"


def test_identical_latencies_are_called_worse_less_often_than_stated() -> None:
    """At ratio 1 without a floor, which is the edge of the hypothesis."""
    generator = np.random.default_rng(9)
    ranks = [(bounds.quantile_ranks(0.95, n, 0.025)[0], n) for n in LOOKS]
    upper = [bounds.quantile_ranks(0.95, 3 * n, 0.025)[1] for n in LOOKS]
    canary = generator.exponential(size=(RUNS, LOOKS[-1]))
    stable = generator.exponential(size=(RUNS, 3 * LOOKS[-1]))
    worse = np.zeros(RUNS, dtype=bool)
    for (low, n), high in zip(ranks, upper, strict=True):
        if high <= 1:
            floor = np.partition(canary[:, :n], max(0, math.ceil(low * n) - 1), axis=1)
            slow = floor[:, max(0, math.ceil(low * n) - 1)]
            index = math.ceil(high * 3 * n - 1e-9) - 1
            worse |= slow > np.partition(stable[:, : 3 * n], index, axis=1)[:, index]
    assert worse.mean() <= 0.05


def test_quantile_ranks_cover_at_all_looks() -> None:
    generator = np.random.default_rng(10)
    steps = np.diff((0, *LOOKS))
    below = np.cumsum(generator.binomial(steps, 0.95, (RUNS, len(LOOKS))), axis=1)
    missed = np.zeros(RUNS, dtype=bool)
    for n, successes in zip(LOOKS, below.T, strict=True):
        low, high = bounds.quantile_ranks(0.95, n, 0.1)
        missed |= (successes < low * n - 1e-6) | (successes >= high * n)
    assert missed.mean() <= 0.1


# -- outputs ------------------------------------------------------------------------------


def drift_state(canary: ArmEvidence, stable: ArmEvidence, alpha: float = 0.05) -> str:
    return compare_outputs(canary, stable, tolerance=0.3, alpha=alpha).state


def test_answers_of_the_same_kind_are_not_worse_and_constant_ones_are() -> None:
    generator = np.random.default_rng(11)
    stable = scored(generator.beta(2, 1, 8_000))
    assert drift_state(scored(generator.beta(2, 1, 400)), stable) == "not_worse"
    assert drift_state(scored([0.0] * 40), stable) == "worse"


def test_one_bad_output_among_several_is_enough() -> None:
    same, other = sketch(np.linspace(0, 1, 500)), sketch(np.linspace(5, 6, 500))
    stable = ArmEvidence(version=1, attempts=500, outputs={"a": same, "b": same})
    canary = ArmEvidence(version=2, attempts=500, outputs={"a": same, "b": other})
    verdict = compare_outputs(canary, stable, tolerance=0.3, alpha=0.05)
    assert verdict.state == "worse"
    assert "'b'" in verdict.explanation


def test_an_output_that_is_missing_or_absent_is_no_data() -> None:
    assert drift_state(scored([1.0], "other"), scored([1.0])) == "no_data"
    assert drift_state(counts(0, 5), counts(0, 5)) == "no_data"


def test_a_thousand_rows_in_one_request_are_one_observation() -> None:
    values = sketch(np.zeros(1000))
    batch = ArmEvidence(version=1, attempts=3, outputs={"approve": values})
    stable = scored(np.linspace(0.5, 1, 5000))
    assert drift_state(batch, stable) == "undecided"


def test_the_distribution_band_covers_at_all_looks() -> None:
    generator = np.random.default_rng(12)
    runs, missed = 1000, np.zeros(1000, dtype=bool)
    samples = generator.random((runs, LOOKS[-1]))
    for n in LOOKS:
        ordered = np.sort(samples[:, :n], axis=1)
        above = (np.arange(1, n + 1) / n - ordered).max(axis=1)
        below = (ordered - np.arange(n) / n).max(axis=1)
        missed |= np.maximum(above, below) > bounds.distribution_radius(n, 0.05)
    assert missed.mean() <= 0.05


def test_ks_distance_is_exact_on_small_samples_and_near_on_large_ones() -> None:
    assert ks_distance(sketch([1, 1, 2]), sketch([1, 2, 2])) == pytest.approx(1 / 3)
    generator = np.random.default_rng(13)
    one, other = sketch(generator.random(50_000)), sketch(generator.random(50_000) + 0.4)
    assert ks_distance(one, other) == pytest.approx(0.4, abs=0.03)


# -- means and shadows --------------------------------------------------------------------


def moments(values: np.ndarray) -> Moments:
    return Moments(len(values), float(values.sum()), float((values**2).sum()))


def test_a_lower_mean_is_worse_and_an_equal_one_is_not() -> None:
    generator = np.random.default_rng(14)
    stable = moments(generator.normal(10, 2, 20_000))
    low, same = moments(generator.normal(9, 2, 600)), moments(generator.normal(10, 2, 8_000))
    assert compare_means(low, stable, margin=0.2, alpha=0.05).state == "worse"
    assert compare_means(same, stable, margin=0.2, alpha=0.05).state == "not_worse"
    assert compare_means(same, stable, margin=None, alpha=0.05).state == "not_worse"


def test_a_mean_of_few_values_is_no_data() -> None:
    few = moments(np.ones(99))
    verdict = compare_means(few, moments(np.ones(5000)), margin=0.1, alpha=0.05)
    assert (verdict.state, verdict.needed) == ("no_data", 1)


def test_equal_means_are_called_worse_less_often_than_stated() -> None:
    generator = np.random.default_rng(15)
    looks = [n for n in LOOKS if n >= sequential.MIN_MEAN_COUNT]
    values = generator.exponential(size=(2, RUNS, looks[-1]))
    worse = np.zeros(RUNS, dtype=bool)
    for n in looks:
        part = values[:, :, :n]
        radius = bounds.mean_radius(n, 1.0, 0.0125) * part.std(axis=2).sum(axis=0)
        worse |= part[1].mean(axis=1) - part[0].mean(axis=1) > radius
    assert worse.mean() <= 0.05


def test_a_shadow_that_disagrees_too_often_is_worse() -> None:
    def shadow(pairs: int, over: int) -> ArmEvidence:
        agreement = {"pairs": float(pairs), "sum": 1.0, "over_tolerance": float(over)}
        return ArmEvidence(version=2, attempts=pairs, agreement=agreement)

    assert judge_disagreement(shadow(100, 60), limit=0.1, alpha=0.05).state == "worse"
    assert judge_disagreement(shadow(500, 5), limit=0.1, alpha=0.05).state == "not_worse"
    assert judge_disagreement(shadow(10, 1), limit=0.1, alpha=0.05).state == "undecided"
    assert judge_disagreement(counts(0, 9), limit=0.1, alpha=0.05).state == "no_data"
    broken = ArmEvidence(version=2, attempts=9, agreement={"pairs": math.nan})
    assert judge_disagreement(broken, limit=0.1, alpha=0.05).state == "no_data"


def test_the_worst_of_several_verdicts_is_the_one_that_blocks() -> None:
    def each() -> Iterator[sequential.Verdict]:
        for state in ("not_worse", "undecided", "no_data", "worse"):
            yield sequential.Verdict(state=state, threshold=1.0, explanation=state)

    verdicts = list(each())
    for count in range(1, 5):
        assert worst(verdicts[:count]).state == verdicts[count - 1].state
