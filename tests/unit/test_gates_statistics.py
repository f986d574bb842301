"""The sums under the gates, against brute force, published figures and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from aios.errors import UsageError
from aios.governance import measures, statistics


def scored(rows: int, seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and the scores of two models that are equally good and err differently."""
    source = np.random.default_rng(seed)
    truth = source.normal(size=rows)
    labels = (truth + source.normal(size=rows) > -0.5).astype(float)
    return labels, *(truth + noise * source.normal(size=rows) for _ in range(2))


def test_delong_is_the_sum_over_all_pairs_of_rows() -> None:
    labels, first, second = scored(80, 3)
    first, second = first.round(1), second.round(1)  # with ties
    kernels = []
    for scores in (first, second):
        one, zero = scores[labels == 1][:, None], scores[labels == 0][None, :]
        kernels.append((one > zero) + 0.5 * (one == zero))
    gap = kernels[0] - kernels[1]
    variance = np.var(gap.mean(axis=1), ddof=1) / gap.shape[0]
    variance += np.var(gap.mean(axis=0), ddof=1) / gap.shape[1]
    found = statistics.delong(labels, first, second, 0.95)
    assert found.value == pytest.approx(gap.mean())
    assert found.value == pytest.approx(
        roc_auc_score(labels, first) - roc_auc_score(labels, second)
    )
    assert found.upper - found.value == pytest.approx(stats.norm.ppf(0.95) * variance**0.5)
    assert found.value - found.lower == pytest.approx(found.upper - found.value)


def test_delong_agrees_with_scipys_paired_bootstrap() -> None:
    labels, first, second = scored(300, 5)

    def gain(rows: np.ndarray) -> float:
        return roc_auc_score(labels[rows], first[rows]) - roc_auc_score(labels[rows], second[rows])

    drawn = stats.bootstrap(
        (np.arange(300),), gain, vectorized=False, n_resamples=400, method="percentile",
        confidence_level=0.9, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    found = statistics.delong(labels, first, second, 0.95)
    assert (found.lower, found.upper) == pytest.approx((drawn.low, drawn.high), abs=0.01)


@pytest.mark.parametrize("rows", [400, 25_000])
def test_the_bootstrap_of_a_mean_is_students_interval(rows: int) -> None:
    values = np.random.default_rng(2).exponential(size=rows)
    found = statistics.paired_bootstrap(
        values[:, None], lambda means: means[:, 0], confidence=0.95, seed=1
    )
    low, high = stats.t.interval(0.9, rows - 1, values.mean(), stats.sem(values))
    assert found.value == values.mean()
    assert (found.lower, found.upper) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_newcombes_published_example() -> None:
    """Newcombe (1998), table II, method 10: 56/70 and 48/80 give 0.0524 to 0.3339 at 95 %,
    9/10 and 3/10 give 0.1705 to 0.8090; one-sided bounds at 97.5 % are the same."""
    found = statistics.share_difference(56, 70, 48, 80, 0.975)
    assert (found.lower, found.upper) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    found = statistics.share_difference(9, 10, 3, 10, 0.975)
    assert (found.lower, found.upper) == pytest.approx((0.1705, 0.8090), abs=5e-5)


def test_welchs_bounds_are_scipys() -> None:
    source = np.random.default_rng(4)
    one, other = source.normal(1, 2, 40), source.normal(0, 1, 25)
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.9)
    found = statistics.mean_difference(one, other, 0.95)
    assert (found.lower, found.upper) == pytest.approx((low, high))


def test_the_calibration_error_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1, 0, 1], dtype=float)
    scores = np.array([0.1, 0.1, 0.1, 0.1, 0.8, 0.8, 0.8, 0.8])
    bins = statistics.equal_count_bins(scores, 2)
    assert bins.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    # |2/4 - 0.1| and |3/4 - 0.8|, half of the rows each
    assert statistics.calibration_error(labels, scores, bins) == pytest.approx((0.4 + 0.05) / 2)


def test_equal_scores_share_a_bin_and_constant_scores_have_one() -> None:
    assert set(statistics.equal_count_bins(np.full(50, 0.3), 10).tolist()) == {0}
    counts = np.bincount(statistics.equal_count_bins(np.linspace(0, 1, 1000), 10))
    assert counts.tolist() == [100] * 10


def test_spiegelhalters_test_is_right_under_calibration() -> None:
    source = np.random.default_rng(6)
    found = []
    for _ in range(500):
        scores = source.uniform(0.05, 0.95, 300)
        labels = (source.random(300) < scores).astype(float)
        found.append(statistics.spiegelhalter(labels, scores)[1])
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.isnan(statistics.spiegelhalter(np.ones(3), np.full(3, 0.5))[1])


def test_metrics_are_scikit_learns() -> None:
    from sklearn import metrics as theirs

    labels, scores, _ = scored(200, 8)
    shares = 1 / (1 + np.exp(-scores))
    assert measures.metrics("binary", labels, shares) == pytest.approx(
        {
            "auc": theirs.roc_auc_score(labels, shares),
            "accuracy": theirs.accuracy_score(labels, shares >= 0.5),
            "brier": theirs.brier_score_loss(labels, shares),
            "log_loss": theirs.log_loss(labels, shares),
        }
    )
    assert measures.metrics("regression", labels + scores, scores) == pytest.approx(
        {
            "rmse": theirs.root_mean_squared_error(labels + scores, scores),
            "mae": theirs.mean_absolute_error(labels + scores, scores),
            "r2": theirs.r2_score(labels + scores, scores),
        }
    )


@pytest.mark.parametrize(
    ("kind", "labels", "scores", "told"),
    [
        ("binary", [1, 1], [0.1, 0.2], "one class"),
        ("binary", [], [], "no rows"),
        ("binary", [0, None], [0.1, 0.2], "null in 1 of 2"),
        ("binary", [0, 1, 2], [0.1, 0.2, 0.3], "has 3 values"),
        ("binary", [0, 1], [0.1, float("nan")], "1 of 2 scores are NaN"),
        ("binary", [0, 1], [0.1], "shape"),
        ("regression", ["a", "b"], [0.1, 0.2], "needs numbers"),
        ("regression", [1.0, float("inf")], [0.1, 0.2], "infinity"),
    ],
)
def test_metrics_of_nonsense_are_refused(kind, labels, scores, told) -> None:
    with pytest.raises(UsageError, match=told):
        measures.metrics(kind, labels, scores)


def test_two_values_of_any_kind_are_a_binary_label() -> None:
    scores = [0.1, 0.9, 0.8]
    for labels in (["no", "yes", "yes"], [False, True, True], [1, 2, 2]):
        assert measures.metrics("binary", labels, scores)["accuracy"] == 1
